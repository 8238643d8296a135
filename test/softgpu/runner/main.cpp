// The runner: conformance cases, coverage of forms, checks of whole kernels, and the bench. One line per case; the
// exit status says whether all of them passed.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "conformance.h"
#include "driver.h"
#include "faults.h"
#include "gpu.h"
#include "kernels.h"

namespace {

std::string contentsOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int usage() {
  std::cerr << "usage: softgpu-runner conformance          run every conformance case\n"
               "       softgpu-runner wrong-cases          run cases that must fail\n"
               "       softgpu-runner ptx 80|90            print the PTX of the cases, for ptxas\n"
               "       softgpu-runner coverage FILE…       forms without a case in PTX, fatbins or programs\n"
               "       softgpu-runner kernel NAME FILE     run and check a kernel\n"
               "       softgpu-runner driver-ptx           the PTX of the next one\n"
               "       softgpu-runner driver               check streams, events, graphs and memory\n"
               "       softgpu-runner calls                one call of every kind, between two marks\n"
               "       softgpu-runner allocations          one allocation of every kind\n"
               "       softgpu-runner probe [FILE]         what a program finds out before it uses the device\n"
               "       softgpu-runner faults               list programs that do one thing wrong each, or nothing\n"
               "       softgpu-runner fault-ptx NAME       the PTX of one of them\n"
               "       softgpu-runner fault NAME           run it\n"
               "       softgpu-runner bench GEMM TOPK      time both kernels\n";
  return 2;
}

}  // namespace

int main(int count, char** arguments) try {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (words.empty()) return usage();
  if (words[0] == "ptx" && words.size() == 2) {
    std::cout << runner::conformancePtx(static_cast<unsigned>(std::stoul(words[1])));
    return 0;
  }
  if (words[0] == "faults") {
    runner::listFaults();
    return 0;
  }
  if (words[0] == "fault-ptx" && words.size() == 2) {
    std::cout << runner::faultPtx(words[1]);
    return 0;
  }
  if (words[0] == "driver-ptx") {
    std::cout << runner::kDriverPtx;
    return 0;
  }
  if (words[0] == "coverage") {
    int missing = 0;
    for (size_t k = 1; k < words.size(); ++k) {
      for (const auto& [where, form] : runner::uncoveredForms(contentsOf(words[k]))) {
        std::printf("no case: %s (%s%s)\n", form.c_str(), words[k].c_str(), where.c_str());
        ++missing;
      }
    }
    return missing ? 1 : 0;
  }
  if (words[0] == "probe") {
    return runner::probe(words.size() > 1 ? contentsOf(words[1]) : runner::kDriverPtx);
  }
  // The bench reads its counts from a report, so there must be one.
  const std::filesystem::path report =
      std::filesystem::temp_directory_path() / ("softgpu-bench-" + std::to_string(getpid()) + ".jsonl");
  if (words[0] == "bench") setenv("SOFTGPU_REPORT", report.c_str(), 1);
  runner::Context context;
  if (words[0] == "conformance") return runner::runConformance();
  if (words[0] == "wrong-cases") return runner::runWrongCases();
  if (words[0] == "driver") return runner::checkDriver();
  if (words[0] == "fault" && words.size() == 2) {
    runner::provoke(words[1]);
    return 0;
  }
  if (words[0] == "calls") return runner::makeCalls();
  if (words[0] == "allocations") return runner::allocate();
  if (words[0] == "kernel" && words.size() == 3) {
    const bool right = runner::runKernel(words[1], contentsOf(words[2]));
    std::printf("%s: %s\n", words[1].c_str(), right ? "right" : "wrong");
    return right ? 0 : 1;
  }
  if (words[0] == "bench" && words.size() == 3) {
    runner::benchGemm(contentsOf(words[1]));
    runner::benchTopk(contentsOf(words[2]), report);
    std::filesystem::remove(report);
    return 0;
  }
  return usage();
} catch (const std::exception& e) {
  std::cerr << e.what() << "\n";
  return 1;
}
