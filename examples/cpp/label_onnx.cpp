// Label raw frames with a model exported by `accel export --to onnx`, by ONNX Runtime alone.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <map>

#include "frames.h"

// A loaded graph: from named tensors to named tensors.
class Graph {
 public:
  Graph(Ort::Env& env, const std::string& path) : session_(env, path.c_str(), Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
    }
    for (size_t i = 0; i < session_.GetOutputCount(); ++i) {
      outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    }
  }

  // Runs it on the tensors that it takes among those given.
  std::map<std::string, Ort::Value> operator()(const std::map<std::string, Ort::Value>& tensors) {
    Ort::IoBinding binding(session_);
    for (const auto& name : inputs_) binding.BindInput(name.c_str(), tensors.at(name));
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    for (const auto& name : outputs_) binding.BindOutput(name.c_str(), memory);
    session_.Run(Ort::RunOptions{}, binding);
    std::vector<Ort::Value> values = binding.GetOutputValues();
    std::map<std::string, Ort::Value> made;
    for (size_t i = 0; i < values.size(); ++i) made.emplace(outputs_[i], std::move(values[i]));
    return made;
  }

 private:
  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
};

int main(int count, char** values) {
  return run([&] {
    const Arguments arguments = read_arguments(count, values);
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "accel");
    Graph key(env, arguments.folder + "/key.onnx"), next(env, arguments.folder + "/next.onnx");
    const std::vector<int64_t> shape{arguments.height, arguments.width, 3};
    // `key` takes a frame, `next` a frame and the state. Both give labels, scores, and the new state as new_NAME.
    std::map<std::string, Ort::Value> tensors;
    Ort::AllocatorWithDefaultOptions allocator;
    const int64_t frames = label_file(arguments, [&](const std::vector<uint8_t>& bytes, bool is_key) {
      Ort::Value frame = Ort::Value::CreateTensor<uint8_t>(allocator, shape.data(), shape.size());
      std::copy(bytes.begin(), bytes.end(), frame.GetTensorMutableData<uint8_t>());
      tensors.insert_or_assign("frame", std::move(frame));
      auto made = (is_key ? key : next)(tensors);
      for (auto& [name, value] : made) {
        if (name.rfind("new_", 0) == 0) tensors.insert_or_assign(name.substr(4), std::move(value));
      }
      const auto* first = made.at("labels").GetTensorData<uint8_t>();
      return std::vector<uint8_t>(first, first + arguments.height * arguments.width);
    });
    std::cout << frames << " frames labelled: " << arguments.output << std::endl;
  });
}
