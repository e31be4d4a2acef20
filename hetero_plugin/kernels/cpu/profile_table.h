// Tables of measured profiles, as the package declares them (hetero_plugin/kernels/formats.py), and what
// is looked up in them.
#pragma once
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "profile_rms.h"

namespace hetero {

constexpr int MOST_BINS = 32, GUIDE_BITS = 8, WORD_BITS = 31;
constexpr int MOST_REACH = 6, MOST_STEPS = 2 * MOST_REACH + 2;  // as REACH in hetero_plugin/errors/profile/replay.py

struct Profile {
  int64_t clock;   // of what is fixed for an address
  uint32_t fresh;  // of 2^16
  uint32_t largest;
  int edges;
  alignas(64) float limits[MOST_BINS];
  alignas(64) uint32_t clean_from[MOST_BINS], clean_many[MOST_BINS], shifts[MOST_BINS];
  std::array<int, MOST_BINS + 1> starts;
  std::vector<uint32_t> thresholds;
  std::vector<int32_t> firsts;
  std::vector<int64_t> factors;
  float large;                 // numbers that are not small, over the RMS
  uint32_t quiet_from, quiet_many;  // words that mean no difference in any of their bins
  std::vector<int32_t> guide;  // bin, leading byte -> 2 * difference + 1 where the byte settles it, else 0
  // Differences from -reach to reach are counted: `least`, and 1 for each step at or below the word. A
  // step is the first word of a difference; those that all words reach, or none, are left out.
  int reach, least, steps;
  alignas(64) uint32_t step[MOST_STEPS][MOST_BINS];

  int32_t entry(int bin, uint32_t word) const {
    int low = starts[bin], high = starts[bin + 1] - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (word < thresholds[middle]) high = middle;
      else low = middle + 1;
    }
    return low;
  }
  int32_t difference(int bin, uint32_t word) const {
    const int at = entry(bin, word);
    const uint32_t before = at > starts[bin] ? thresholds[at - 1] : 0u;
    return firsts[at] + (int32_t)((int64_t)(word - before) * factors[at] >> 32);
  }
  // The first word that means `wanted` or more, 2^31 if none does: differences rise with the word.
  uint32_t first_of(int bin, int32_t wanted) const {
    uint32_t low = 0, high = 1u << WORD_BITS;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (difference(bin, middle) >= wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  }
  void set_steps(int bins) {
    least = -reach - 1, steps = 0;
    for (int d = -reach; d <= reach + 1; ++d) {
      uint32_t lowest = ~0u, highest = 0;
      std::fill_n(step[steps], MOST_BINS, 0u);
      for (int b = 0; b < bins; ++b) {
        const uint32_t word = step[steps][b] = first_of(b, d);
        lowest = std::min(lowest, word), highest = std::max(highest, word);
      }
      if (highest == 0) ++least;
      else if (lowest < 1u << WORD_BITS) ++steps;
    }
  }
};

// Those of a word, by dtype: bfloat16, float16, float32.
using Profiles = std::array<std::shared_ptr<const Profile>, 3>;
static std::map<std::string, Profiles, std::less<>> profiles;

static Profiles profiles_of(std::string_view name) {
  const std::shared_lock<std::shared_mutex> lock(declaring);
  const auto found = profiles.find(name);
  return found == profiles.end() ? Profiles{} : found->second;
}

// numbers: clock, fresh, largest, edges, entries, first bin of what is large, its quiet words (first, how many),
// reach; starts; then thresholds, firsts, factors.
void declare_profile(std::string_view name, int64_t dtype, const at::Tensor& limits, const at::Tensor& numbers) {
  TORCH_CHECK(limits.scalar_type() == at::kFloat && numbers.scalar_type() == at::kLong && limits.is_contiguous() &&
                  numbers.is_contiguous() && numbers.numel() >= 9 && dtype >= 0 && dtype < 3,
              "hetero_noise::declare_profile: float32 limits and int64 numbers");
  const int64_t* n = numbers.const_data_ptr<int64_t>();
  auto made = std::make_shared<Profile>();
  made->clock = n[0], made->fresh = (uint32_t)n[1], made->largest = (uint32_t)n[2], made->edges = (int)n[3];
  const int bins = made->edges + 1, entries = (int)n[4];
  TORCH_CHECK(bins >= 1 && bins <= MOST_BINS && limits.numel() == made->edges && numbers.numel() == 9 + bins + 1 + 3 * entries && n[5] >= 0 && n[5] < bins && n[8] >= 0 && n[8] <= MOST_REACH,
              "hetero_noise::declare_profile: ", bins, " bins and ", entries, " entries in ", numbers.numel(), " numbers");
  std::fill_n(made->limits, MOST_BINS, INFINITY);
  std::copy_n(limits.const_data_ptr<float>(), made->edges, made->limits);
  made->large = n[5] ? made->limits[n[5] - 1] : 0.0f;
  made->quiet_from = (uint32_t)n[6], made->quiet_many = (uint32_t)n[7];
  made->reach = (int)n[8];
  n += 9;
  std::copy_n(n, bins + 1, made->starts.begin());
  n += bins + 1;
  made->thresholds.assign(n, n + entries);
  made->firsts.assign(n + entries, n + 2 * entries);
  made->factors.assign(n + 2 * entries, n + 3 * entries);
  made->guide.resize(bins << GUIDE_BITS);
  for (int b = 0; b < bins; ++b) {
    const int start = made->starts[b], end = made->starts[b + 1];
    TORCH_CHECK(start < end && end <= entries && made->thresholds[end - 1] == 1u << WORD_BITS,
                "hetero_noise::declare_profile: bin ", b, " does not end at 1");
    // The words that mean none: of the entry with 0, if that is its only value.
    for (int i = start; i < end; ++i) {
      const uint32_t before = i > start ? made->thresholds[i - 1] : 0u, many = made->thresholds[i] - before;
      if (made->firsts[i] != 0 || many == 0 || made->difference(b, before + many - 1) != 0) continue;
      made->clean_from[b] = before;
      made->clean_many[b] = many;
    }
    const uint32_t changing = (1u << WORD_BITS) - made->clean_many[b];
    int bits = 0;
    while (changing > 1u << bits) ++bits;
    made->shifts[b] = (uint32_t)std::max(bits - GUIDE_BITS, 0);
    const auto word = [&](uint32_t rest) { return rest < made->clean_from[b] ? rest : rest + made->clean_many[b]; };
    for (uint32_t byte = 0; byte < 1u << GUIDE_BITS && byte << made->shifts[b] < changing; ++byte) {
      // Differences rise with the word.
      const uint32_t first = byte << made->shifts[b], last = std::min(((byte + 1) << made->shifts[b]) - 1, changing - 1);
      const int32_t one = made->difference(b, word(first));
      const bool settled = one == made->difference(b, word(last)) && std::abs((int64_t)one) < 1 << 30;
      made->guide[(b << GUIDE_BITS) | byte] = settled ? 2 * one + 1 : 0;
    }
  }
  made->set_steps(bins);
  const std::unique_lock<std::shared_mutex> lock(declaring);
  profiles[std::string(name)][dtype] = made;
}

}  // namespace hetero
