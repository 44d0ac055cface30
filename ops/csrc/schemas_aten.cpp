// schemas.cpp for the CUDA library, which uses ATen.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace accel_ops {
namespace {

constexpr const char* kSchemas[] = {
#include "schemas.inc"
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(accel_ops, library) {
  for (const char* text : kSchemas) {
    auto schema = torch::schema(text);
    const c10::OperatorName name("accel_ops::" + schema.name(), schema.overload_name());
    if (c10::Dispatcher::singleton().findSchema(name)) continue;
    library.def(std::move(schema), {at::Tag::pt2_compliant_tag});
  }
}

}  // namespace accel_ops
