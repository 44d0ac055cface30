// Defines the operators, in the CPU library, for programs that have libtorch and no Python. Whoever comes first defines
// them: a library, or Python, which knows them before it has a library, and which says so by an operator of its own
// (operators/registration.py): the stable ABI cannot look a schema up.
#include "tensor.h"

#include <dlfcn.h>

// Of PyTorch 2.12 and newer.
extern "C" {
__attribute__((weak)) AOTITorchError torch_library_def_with_tags(
    TorchLibraryHandle library, const char* schema, const int32_t* tags, int32_t count);
__attribute__((weak)) int32_t torch_tag_pt2_compliant_tag();
}

namespace accel_ops {
namespace {

constexpr const char* kSchemas[] = {
#include "schemas.inc"
};

bool python_has_defined_them() {
  if (!dlsym(RTLD_DEFAULT, "Py_IsInitialized")) return false;
  StableIValue nothing;
  return torch_call_dispatcher("accel_ops_python::defines", "", &nothing, TORCH_ABI_VERSION) == AOTI_TORCH_SUCCESS;
}

struct Definitions {
  TorchLibraryHandle library = nullptr;

  Definitions() {
    if (python_has_defined_them()) return;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_library_init_fragment("accel_ops", __FILE__, __LINE__, &library));
    for (const char* schema : kSchemas) {  // an error means that the CUDA library has defined it
      if (torch_library_def_with_tags && torch_tag_pt2_compliant_tag) {
        const int32_t tag = torch_tag_pt2_compliant_tag();
        torch_library_def_with_tags(library, schema, &tag, 1);
      } else {
        aoti_torch_library_def(library, schema);
      }
    }
  }
  Definitions(const Definitions&) = delete;
  Definitions& operator=(const Definitions&) = delete;
  ~Definitions() {
    if (library) aoti_torch_delete_library_object(library);
  }
};

const Definitions definitions;

}  // namespace
}  // namespace accel_ops
