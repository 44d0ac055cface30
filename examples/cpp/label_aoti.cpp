// Label raw frames with a model exported by `accel export --to aoti`, by libtorch alone.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>

#include "frames.h"

using torch::inductor::AOTIModelPackageLoader;

// The packages call the native operators, which this library defines.
void load_operators(const std::string& folder) {
  if (!dlopen((folder + "/accel_ops.so").c_str(), RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
}

int main(int count, char** values) {
  return run([&] {
    const Arguments arguments = read_arguments(count, values);
    load_operators(arguments.folder);
    AOTIModelPackageLoader key(arguments.folder + "/key.pt2"), next(arguments.folder + "/next.pt2");
    c10::InferenceMode without_gradients;
    // `key` takes a frame, `next` a frame and the state. Both give labels, scores and the new state.
    std::vector<at::Tensor> state;
    const int64_t frames = label_file(arguments, [&](const std::vector<uint8_t>& bytes, bool is_key) {
      const auto frame = at::empty({arguments.height, arguments.width, 3}, at::kByte);  // its own: the state may keep it
      std::copy(bytes.begin(), bytes.end(), frame.mutable_data_ptr<uint8_t>());
      std::vector<at::Tensor> inputs{frame};
      if (!is_key) inputs.insert(inputs.end(), state.begin(), state.end());
      const std::vector<at::Tensor> given = (is_key ? key : next).run(inputs);
      // A graph that gives no state leaves the one there was.
      if (given.size() > 2) state.assign(given.begin() + 2, given.end());
      const auto labels = given[0].contiguous();
      const auto* first = labels.const_data_ptr<uint8_t>();
      return std::vector<uint8_t>(first, first + labels.numel());
    });
    std::cout << frames << " frames labelled: " << arguments.output << std::endl;
  });
}
