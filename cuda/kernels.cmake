# Compiles each cuda/*.cu into a fatbin in the folder "cuda" beside the addon, and tells native/cuda/kernels.cpp which
# there are. Machine code for 80, 86 and 89 is made from compute_80, that for 90, 100 and 120 from compute_90, and both
# PTX travel along: so all machine code comes from PTX that the tests have executed.

set(cuda_reason "")
if(SWITCHYARD_CUDA STREQUAL "OFF")
  set(cuda_reason "switchyard was built with SWITCHYARD_CUDA=OFF")
else()
  find_program(SWITCHYARD_NVCC nvcc
    HINTS "$ENV{CUDACXX}" "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" /usr/local/cuda/bin)
  if(SWITCHYARD_NVCC)
    # A compiler that is there may still refuse this host compiler.
    file(WRITE ${CMAKE_BINARY_DIR}/cuda-check.cu "__global__ void check() {}\n")
    execute_process(
      COMMAND ${SWITCHYARD_NVCC} -std=c++20 -ptx -arch=compute_80 -ccbin ${CMAKE_CXX_COMPILER}
        ${CMAKE_BINARY_DIR}/cuda-check.cu -o ${CMAKE_BINARY_DIR}/cuda-check.ptx
      RESULT_VARIABLE cuda_status OUTPUT_VARIABLE cuda_output ERROR_VARIABLE cuda_output)
    if(NOT cuda_status EQUAL 0)
      string(STRIP "${cuda_output}" cuda_output)
      string(REGEX REPLACE "\n.*" "" cuda_output "${cuda_output}")
      set(cuda_reason "switchyard was built without CUDA: ${SWITCHYARD_NVCC} does not work (${cuda_output})")
    endif()
  else()
    set(cuda_reason "switchyard was built without CUDA: nvcc was not found (set CUDA_HOME, or put it on PATH)")
  endif()
  if(cuda_reason AND SWITCHYARD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "${cuda_reason}")
  elseif(cuda_reason AND SWITCHYARD_NVCC)
    message(WARNING "${cuda_reason}")
  endif()
endif()

set(kernel_build ${CMAKE_BINARY_DIR}/generated/kernel-build.h)
target_include_directories(switchyard PRIVATE ${CMAKE_BINARY_DIR}/generated)
if(cuda_reason)
  message(STATUS "switchyard CUDA kernels: none: ${cuda_reason}")
  string(REPLACE "\\" "\\\\" cuda_reason "${cuda_reason}")
  string(REPLACE "\"" "\\\"" cuda_reason "${cuda_reason}")
  file(CONFIGURE OUTPUT ${kernel_build} CONTENT "#define MOE_CUDA_REASON \"${cuda_reason}\"\n")
  return()
endif()

# ---------------------------------------------------------------- architectures

execute_process(COMMAND ${SWITCHYARD_NVCC} --version OUTPUT_VARIABLE cuda_version)
string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" cuda_version "${cuda_version}")
math(EXPR cuda_toolkit "${CMAKE_MATCH_1} * 1000 + ${CMAKE_MATCH_2} * 10")
execute_process(COMMAND ${SWITCHYARD_NVCC} --list-gpu-code OUTPUT_VARIABLE cuda_known)
string(REGEX MATCHALL "sm_[0-9]+" cuda_known "${cuda_known}")

set(cuda_real ${SWITCHYARD_CUDA_ARCHITECTURES})
if(NOT cuda_real)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    RESULT_VARIABLE cuda_status OUTPUT_VARIABLE cuda_real ERROR_QUIET)
  if(cuda_status EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" cuda_real "${cuda_real}")
    string(REPLACE "." "" cuda_real "${cuda_real}")
    list(REMOVE_DUPLICATES cuda_real)
  else()
    set(cuda_real 80 86 89 90 100 120)
  endif()
endif()
set(cuda_codes -gencode=arch=compute_80,code=compute_80 -gencode=arch=compute_90,code=compute_90)
set(cuda_names compute_80 compute_90)
foreach(real IN LISTS cuda_real)
  if(NOT "sm_${real}" IN_LIST cuda_known OR real LESS 80)
    continue()
  endif()
  set(virtual 80)
  if(real GREATER_EQUAL 90)
    set(virtual 90)
  endif()
  list(APPEND cuda_codes -gencode=arch=compute_${virtual},code=sm_${real})
  list(APPEND cuda_names sm_${real})
endforeach()
list(JOIN cuda_names ", " cuda_names)
message(STATUS "switchyard CUDA kernels: ${cuda_names}, by ${SWITCHYARD_NVCC}")

# ---------------------------------------------------------------- fatbins

set(cuda_folder ${CMAKE_BINARY_DIR})
if(CMAKE_LIBRARY_OUTPUT_DIRECTORY)
  set(cuda_folder ${CMAKE_LIBRARY_OUTPUT_DIRECTORY})
endif()
set(cuda_folder ${cuda_folder}/cuda)
file(MAKE_DIRECTORY ${cuda_folder})
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)
set(cuda_fatbins "")
foreach(source IN LISTS cuda_sources)
  get_filename_component(name ${source} NAME_WE)
  set(fatbin ${cuda_folder}/${name}.fatbin)
  set(depfile ${CMAKE_BINARY_DIR}/${name}.fatbin.d)
  # Uncompressed, so that the tests' software GPU can read the PTX. Spills are errors.
  add_custom_command(OUTPUT ${fatbin}
    COMMAND ${SWITCHYARD_NVCC} -O3 -std=c++20 -fatbin --compress-mode=none ${cuda_codes} -ccbin ${CMAKE_CXX_COMPILER}
      -Xptxas=--warn-on-spills,--warn-on-local-memory-usage,-Werror -Werror=all-warnings
      -MD -MF ${depfile} ${source} -o ${fatbin}
    DEPENDS ${source} DEPFILE ${depfile} VERBATIM COMMENT "Compiling CUDA kernels of ${name}.cu")
  list(APPEND cuda_fatbins ${fatbin})
endforeach()
add_custom_command(OUTPUT ${kernel_build}
  COMMAND ${CMAKE_COMMAND} "-DFATBINS=${cuda_fatbins}" -DTOOLKIT=${cuda_toolkit} -DOUTPUT=${kernel_build}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernel-build.cmake
  DEPENDS ${cuda_fatbins} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/kernel-build.cmake VERBATIM)
target_sources(switchyard PRIVATE ${kernel_build})
