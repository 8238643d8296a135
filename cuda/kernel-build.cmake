# Writes OUTPUT, which says what native/cuda/kernels.cpp can load: FATBINS with their checksums, made by TOOLKIT.
set(checksums "")
foreach(fatbin IN LISTS FATBINS)
  get_filename_component(name ${fatbin} NAME)
  file(SHA256 ${fatbin} checksum)
  string(APPEND checksums "{\"${name}\", \"${checksum}\"}, ")
endforeach()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#define MOE_CUDA_TOOLKIT ${TOOLKIT}\n#define MOE_CUDA_CHECKSUMS {${checksums}}\n")
