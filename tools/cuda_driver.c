// NVIDIA's driver as far as Triton's launchers call it, on a machine without a GPU: every call succeeds, a launch
// computes nothing and is counted. `cuda_launches.py` compiles it.

#include <stddef.h>
#include <stdint.h>

typedef int Result;
typedef void* Handle;

static int something;
static long launches;

enum { DEVICE_WARP_SIZE = 10, DEVICE_MULTIPROCESSORS = 16, DEVICE_MAJOR = 75, DEVICE_MINOR = 76, DEVICE_SHARED = 97 };
enum { KERNEL_MAX_THREADS = 0, KERNEL_REGISTERS = 4 };

#define SUCCEEDS(name) \
  Result name(void) { return 0; }

SUCCEEDS(cuCtxSetCurrent)
SUCCEEDS(cuCtxSetLimit)
SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuFuncSetCacheConfig)
SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuOccupancyMaxActiveClusters)
SUCCEEDS(cuPointerGetAttributes)
SUCCEEDS(cuTensorMapEncodeIm2col)
SUCCEEDS(cuTensorMapEncodeTiled)

static Result give(Handle* handle) {
  *handle = &something;
  return 0;
}

static Result set(int* value, int number) {
  *value = number;
  return 0;
}

Result cuInit(unsigned flags) {
  (void)flags;
  return 0;
}
Result cuDriverGetVersion(int* version) { return set(version, 13000); }
Result cuDeviceGetCount(int* count) { return set(count, 1); }
Result cuDeviceGet(int* device, int ordinal) { return set(device, ordinal); }
Result cuCtxGetDevice(int* device) { return set(device, 0); }
Result cuCtxGetCurrent(Handle* context) { return give(context); }
Result cuDevicePrimaryCtxRetain(Handle* context, int device) {
  (void)device;
  return give(context);
}
Result cuModuleLoadData(Handle* module, const void* image) {
  (void)image;
  return give(module);
}
Result cuModuleGetFunction(Handle* function, Handle module, const char* name) {
  (void)module, (void)name;
  return give(function);
}
Result cuStreamIsCapturing(Handle stream, int* status) {
  (void)stream;
  return set(status, 0);
}
Result cuCtxGetLimit(size_t* value, int limit) {
  (void)limit;
  *value = 1 << 20;
  return 0;
}
Result cuGetErrorString(Result error, const char** text) {
  (void)error;
  *text = "no error";
  return 0;
}

// Those of an H100.
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  switch (attribute) {
    case DEVICE_WARP_SIZE: return set(value, 32);
    case DEVICE_MULTIPROCESSORS: return set(value, 132);
    case DEVICE_MAJOR: return set(value, 9);
    case DEVICE_MINOR: return set(value, 0);
    case DEVICE_SHARED: return set(value, 232448);
    default: return set(value, 65536);
  }
}

Result cuFuncGetAttribute(int* value, int attribute, Handle function) {
  (void)function;
  return set(value, attribute == KERNEL_MAX_THREADS ? 1024 : attribute == KERNEL_REGISTERS ? 64 : 0);
}

// Pointers are those of tensors on the CPU.
Result cuPointerGetAttribute(void* data, int attribute, uint64_t pointer) {
  (void)attribute;
  *(uint64_t*)data = pointer;
  return 0;
}

Result cuLaunchKernelEx(const void* config, Handle function, Handle* parameters, Handle* extra) {
  (void)config, (void)function, (void)parameters, (void)extra;
  launches += 1;
  return 0;
}

long num_launches(void) { return launches; }
