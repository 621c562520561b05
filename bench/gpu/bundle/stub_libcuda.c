/* A CUDA driver that accepts launches and runs nothing: the functions that Triton's launchers call, for an H100. */
#include <cuda.h>
#include <string.h>

#define CALL(name, ...) CUresult CUDAAPI name(__VA_ARGS__)

static long launches = 0;

long stub_launches(void) { return launches; }

CALL(cuInit, unsigned flags) { return CUDA_SUCCESS; }

CALL(cuDriverGetVersion, int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CALL(cuDeviceGet, CUdevice *device, int ordinal) {
    *device = 0;
    return CUDA_SUCCESS;
}

CALL(cuDeviceGetAttribute, int *value, CUdevice_attribute attribute, CUdevice device) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: *value = 233472; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    default: *value = 1024;
    }
    return CUDA_SUCCESS;
}

CALL(cuGetErrorString, CUresult error, const char **text) {
    *text = "an error of the stub";
    return CUDA_SUCCESS;
}

CALL(cuCtxGetCurrent, CUcontext *context) {
    *context = (CUcontext)1;
    return CUDA_SUCCESS;
}

CALL(cuCtxSetCurrent, CUcontext context) { return CUDA_SUCCESS; }

CALL(cuCtxGetDevice, CUdevice *device) {
    *device = 0;
    return CUDA_SUCCESS;
}

CALL(cuStreamIsCapturing, CUstream stream, CUstreamCaptureStatus *status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CALL(cuCtxGetLimit, size_t *value, CUlimit limit) {
    *value = 0;
    return CUDA_SUCCESS;
}

CALL(cuCtxSetLimit, CUlimit limit, size_t value) { return CUDA_SUCCESS; }

CALL(cuDevicePrimaryCtxRetain, CUcontext *context, CUdevice device) {
    *context = (CUcontext)1;
    return CUDA_SUCCESS;
}

CALL(cuModuleLoadData, CUmodule *module, const void *image) {
    *module = (CUmodule)1;
    return CUDA_SUCCESS;
}

CALL(cuModuleUnload, CUmodule module) { return CUDA_SUCCESS; }

CALL(cuModuleGetFunction, CUfunction *function, CUmodule module, const char *name) {
    *function = (CUfunction)strdup(name); /* never freed: a function lives as long as the process */
    return CUDA_SUCCESS;
}

CALL(cuFuncGetAttribute, int *value, CUfunction_attribute attribute, CUfunction function) {
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
    return CUDA_SUCCESS;
}

CALL(cuFuncSetAttribute, CUfunction function, CUfunction_attribute attribute, int value) { return CUDA_SUCCESS; }

CALL(cuFuncSetCacheConfig, CUfunction function, CUfunc_cache config) { return CUDA_SUCCESS; }

CALL(cuOccupancyMaxActiveClusters, int *count, CUfunction function, const CUlaunchConfig *config) {
    *count = 1;
    return CUDA_SUCCESS;
}

CALL(cuPointerGetAttribute, void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    *(CUdeviceptr *)value = pointer;
    return CUDA_SUCCESS;
}

CALL(cuPointerGetAttributes, unsigned count, CUpointer_attribute *attributes, void **values, CUdeviceptr pointer) {
    for (unsigned i = 0; i < count; i++) *(CUdeviceptr *)values[i] = pointer;
    return CUDA_SUCCESS;
}

CALL(cuTensorMapEncodeTiled, CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
     const cuuint64_t *dim, const cuuint64_t *strides, const cuuint32_t *box, const cuuint32_t *steps,
     CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
     CUtensorMapFloatOOBfill fill) {
    return CUDA_SUCCESS;
}

CALL(cuTensorMapEncodeIm2col, CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
     const cuuint64_t *dim, const cuuint64_t *strides, const int *lower, const int *upper, cuuint32_t channels,
     cuuint32_t pixels, const cuuint32_t *steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
     CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
    return CUDA_SUCCESS;
}

CALL(cuLaunchKernelEx, const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra) {
    launches++;
    return CUDA_SUCCESS;
}
