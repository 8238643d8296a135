// How the CUDA backend cuts a route into pieces of tokens, and the memory in which it sums over them: shared by the
// kernels of cuda/route*.cu and the host that sizes their workspace.
#pragma once

#include <algorithm>
#include <type_traits>

#include "hd.h"
#include "operations.h"
#include "status.h"

namespace moe {

/// The tokens in pieces, none of which crosses a load-balance scope. One block of threads does a piece.
struct RoutePieces {
  static constexpr int tileTokens = 32;    // a piece is whole tiles, but for its end
  static constexpr int maxPerScope = 256;  // bounds the partial sums
  static constexpr int keptExperts = 256;  // up to which a tile's logits stay in shared memory

  int64_t scopes, scopeTokens, pieceTokens, perScope;

  /// Logits [tileTokens,E] in shared memory; the odd stride keeps columns free of bank conflicts.
  MOE_MEMBER static int keptStride(int E) { return E | 1; }
  MOE_MEMBER static size_t keptBytes(int E) {
    return E <= keptExperts ? sizeof(float) * tileTokens * keptStride(E) : 0;
  }

  MOE_MEMBER int64_t count() const { return scopes * perScope; }
  MOE_MEMBER int64_t scopeOf(int64_t piece) const { return piece / perScope; }
  MOE_MEMBER int64_t begin(int64_t piece) const {
    return scopeOf(piece) * scopeTokens + piece % perScope * pieceTokens;
  }
  MOE_MEMBER int64_t end(int64_t piece) const {
    const int64_t wanted = begin(piece) + pieceTokens, scopeEnd = (scopeOf(piece) + 1) * scopeTokens;
    return wanted < scopeEnd ? wanted : scopeEnd;
  }

  static RoutePieces of(const LossOptions& losses, int64_t T) {
    const bool split = losses.loadBalanceOn && losses.sequenceLength > 0;
    RoutePieces p{};
    p.scopes = split ? losses.scopes(T) : 1;
    p.scopeTokens = split ? losses.sequenceLength : T;
    const int64_t even = (p.scopeTokens + maxPerScope - 1) / maxPerScope;
    p.pieceTokens = (even + tileTokens - 1) / tileTokens * tileTokens;
    p.perScope = p.pieceTokens > 0 ? (p.scopeTokens + p.pieceTokens - 1) / p.pieceTokens : 0;
    return p;
  }
};

/// Sums over each piece, and over each scope; carved from a workspace by one function that also counts.
struct RouteSums {
  static constexpr int warps = 8;  // of a block

  FaultWord* faults;   // [pieces,warps] the lowest that each warp found
  double* z;           // [pieces] Σ logsumexp²
  double* balance;     // [scopes] Σ_e counts·P
  float* liveP;        // [pieces,E] Σ probabilities of live tokens
  float* lossP;        // [pieces,E] of those that count in the losses; liveP without a loss mask
  float* importance;   // [pieces,E]
  float* load;         // [pieces,E] Σ chances of being chosen
  int32_t* counts;     // [pieces,E] assignments that the load balance counts
  int32_t* live;       // [pieces] tokens
  int32_t* loss;       // [pieces] tokens
  uint32_t* finished;  // [1] scopes that are done

  size_t carve(char* block, const RoutePieces& pieces, const RouteForward& f) {
    const size_t count = static_cast<size_t>(pieces.count()), rows = count * f.E;
    size_t used = 0;
    const auto take = [&](auto*& field, size_t elements) {
      field = block ? reinterpret_cast<std::remove_reference_t<decltype(field)>>(block + used) : nullptr;
      used += (elements * sizeof(*field) + 15) / 16 * 16;
    };
    take(faults, count * warps);
    take(z, count);
    take(balance, pieces.scopes);
    take(liveP, rows);
    if (f.losses.loadBalanceOn && f.lossMask)
      take(lossP, rows);
    else
      lossP = liveP;
    if (f.losses.importanceOn) take(importance, rows);
    if (f.losses.loadOn) take(load, rows);
    if (f.losses.loadBalanceOn) take(counts, rows);
    take(live, count);
    take(loss, count);
    take(finished, 1);
    return used;
  }
};

/// Memory of each warp's own, where a route is more than a top-K of a softmax.
struct RouteRows {
  float* experts;  // [pieces·warps,E]
  float* groups;   // [pieces·warps,groups]

  size_t carve(char* block, const RoutePieces& pieces, int E, int groupCount) {
    const size_t rows = static_cast<size_t>(pieces.count()) * RouteSums::warps;
    experts = reinterpret_cast<float*>(block);
    groups = block ? experts + rows * E : nullptr;
    return (rows * (E + groupCount) * sizeof(float) + 15) / 16 * 16;
  }
};

/// The products of the route's backward that sum over tokens, in splits of them.
struct RouteGradientSums {
  static constexpr int expertTile = 16, columnTile = 64;
  // A split writes its sums to memory: there are no more than it takes to keep a GPU busy, and to bound the rounding of
  // sums over many tokens.
  static constexpr int minTokens = 512, maxTokens = 4096, enoughBlocks = 256;

  int64_t splits, splitTokens, counters;
  float* bias;         // [pieces,E] Σ gradLogits; null without
  float* weight;       // [splits,E,H] for one product at a time; null without
  uint32_t* finished;  // [counters] splits that are done, of [expert tiles · column tiles] for each product

  size_t carve(char* block, const RoutePieces& pieces, const RouteBackward& b) {
    size_t used = 0;
    const auto take = [&](auto*& field, size_t elements) {
      field = block ? reinterpret_cast<std::remove_reference_t<decltype(field)>>(block + used) : nullptr;
      used += (elements * sizeof(*field) + 15) / 16 * 16;
    };
    const auto over = [](int64_t n, int64_t each) { return (n + each - 1) / each; };
    const int64_t most = over(b.T, minTokens), least = over(b.T, maxTokens);
    const int64_t wanted = over(enoughBlocks, std::max<int64_t>(1, static_cast<int64_t>(tiles(b))));
    splits = std::max<int64_t>(1, std::clamp(wanted, least, most));
    splitTokens = (b.T + splits - 1) / splits;
    if (b.gradBias) take(bias, static_cast<size_t>(pieces.count()) * b.E);
    counters = static_cast<int64_t>(tiles(b)) * ((b.gradWeight ? 1 : 0) + (b.gradNoiseWeight ? 1 : 0));
    if (counters > 0) take(weight, static_cast<size_t>(splits) * b.E * b.H);
    if (counters > 0) take(finished, counters);
    return used;
  }

  MOE_MEMBER static size_t tiles(const RouteBackward& b) {
    return static_cast<size_t>((b.E + expertTile - 1) / expertTile) * ((b.H + columnTile - 1) / columnTile);
  }
};

}  // namespace moe
