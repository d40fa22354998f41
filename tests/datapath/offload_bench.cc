// What the offload stage and the packed-ring scan cost per burst of 32.
#include <benchmark/benchmark.h>
#include <rte_mbuf.h>

#include <vector>

#include "backend/datapath/journal_scan.h"
#include "backend/datapath/offload.h"
#include "tests/datapath/eal_start.h"
#include "tests/datapath/mbuf_support.h"
#include "tests/frames/frame.h"

namespace everport {
namespace {

constexpr uint16_t kBurst = 32;

frames::FrameSpec Spec(bool v6, size_t payload) {
  frames::FrameSpec spec;
  spec.v6 = v6;
  spec.payload.assign(payload, 0x5a);
  return spec;
}

void FastPath(benchmark::State& state) {
  TestPool pool("fast", 1023, RTE_MBUF_DEFAULT_BUF_SIZE);
  OffloadStage stage(pool.get());
  std::vector<rte_mbuf*> burst;
  const frames::Bytes bytes = Build(Spec(false, 10), frames::L4Checksum::kFull);
  for (int i = 0; i < kBurst; ++i) burst.push_back(MbufOf(bytes, pool.get()));
  for (auto _ : state) {
    stage.Process(OffloadCaps{}, burst.data(), kBurst,
                  [](rte_mbuf** frames, uint16_t) { benchmark::DoNotOptimize(frames); });
  }
  rte_pktmbuf_free_bulk(burst.data(), kBurst);
  state.SetItemsProcessed(state.iterations() * kBurst);
}
BENCHMARK(FastPath);

// range(0): payload bytes; range(1): the receiver takes checksum requests.
void Checksum(benchmark::State& state) {
  TestPool pool("checksum", 1023, RTE_MBUF_DEFAULT_BUF_SIZE);
  OffloadStage stage(pool.get());
  const frames::FrameSpec spec = Spec(false, static_cast<size_t>(state.range(0)));
  std::vector<rte_mbuf*> burst;
  for (int i = 0; i < kBurst; ++i) burst.push_back(MbufOf(Build(spec, frames::L4Checksum::kPseudoHeader), pool.get()));
  const OffloadCaps caps{.l4_checksum = state.range(1) != 0};
  for (auto _ : state) {
    for (rte_mbuf* frame : burst) Ask(frame, spec);
    stage.Process(caps, burst.data(), kBurst, [](rte_mbuf** frames, uint16_t) { benchmark::DoNotOptimize(frames); });
  }
  rte_pktmbuf_free_bulk(burst.data(), kBurst);
  state.SetItemsProcessed(state.iterations() * kBurst);
}
BENCHMARK(Checksum)->Args({0, 0})->Args({0, 1})->Args({1440, 0})->Args({1440, 1});

// One frame of 64 KiB in segments of 1448 bytes, the frame's making included. range(0): IPv6.
void Segmentation(benchmark::State& state) {
  TestPool pool("segments", 4095, RTE_MBUF_DEFAULT_BUF_SIZE);
  OffloadStage stage(pool.get());
  const frames::FrameSpec spec = Spec(state.range(0) != 0, 65000);
  const frames::Bytes bytes = Build(spec, frames::L4Checksum::kPseudoHeader);
  for (auto _ : state) {
    rte_mbuf* frame = MbufOf(bytes, pool.get());
    Ask(frame, spec, 1440);
    stage.Process(OffloadCaps{}, &frame, 1, [](rte_mbuf** frames, uint16_t n) { rte_pktmbuf_free_bulk(frames, n); });
  }
  state.SetBytesProcessed(state.iterations() * 65000);
}
BENCHMARK(Segmentation)->Arg(0)->Arg(1);

// range(0): descriptors per chain.
void Scan(benchmark::State& state) {
  constexpr uint16_t kSize = 1024;
  const auto slots = static_cast<uint16_t>(state.range(0));
  std::vector<PackedDesc> ring(kSize);
  for (uint16_t i = 0; i < kSize; ++i) {
    const bool last = i % slots == slots - 1;
    ring[i] = {0x1000, 1526, i, static_cast<uint16_t>(kPackedAvail | (last ? 0 : kPackedNext))};
  }
  IndexPageChain chains[kBurst];
  uint16_t index = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(ScanChains(ring.data(), kSize, 0x8000 | index, chains, kBurst));
    benchmark::ClobberMemory();
    index = static_cast<uint16_t>((index + kBurst * slots) % kSize);
  }
  state.SetItemsProcessed(state.iterations() * kBurst);
}
BENCHMARK(Scan)->Arg(1)->Arg(2);

}  // namespace
}  // namespace everport

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  everport::StartEalForTest();
  benchmark::RunSpecifiedBenchmarks();
}
