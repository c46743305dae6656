#include "common/planner/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/nearest_layouts.h"
#include "common/planner/hosts_file.h"
#include "common/planner/presets.h"
#include "common/step_rules.h"
#include "common/strings.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

using ::testing::HasSubstr;

ModelConfig Ladder(ModelConfig model) {
  model.schedule = ScheduleKind::kLadder;
  for (LayerConfig& layer : model.layers) layer.ladder = true;
  return model;
}

// Hosts of one rank whose only cost is weights: 1 ns each; links are set by each test.
HostSpec PlainHost() {
  HostSpec host;
  host.name = "plain";
  host.memory_bytes = 1ull << 40;
  ProcessorRates& r = host.all;
  r.layers = r.head = MatMulCurve({{1.0, 1e-9}});
  r.kv_bytes_s = r.attention_macs_s = 1e30;
  r.block_s = r.row_element_s = r.step_s = 0.0;
  host.one = host.all;
  return host;
}
Link LinkOf(double latency_s, double hidden) {
  Link link;
  link.latency_s = latency_s;
  link.bytes_s = 1e30;
  link.hidden = hidden;
  return link;
}

TEST(MatMulCurve, InterpolatesAndGoesOnInProportion) {
  const MatMulCurve curve({{1, 10}, {4, 16}, {16, 40}});
  EXPECT_DOUBLE_EQ(curve.SecondsPerWeight(1), 10);
  EXPECT_DOUBLE_EQ(curve.SecondsPerWeight(2.5), 13);
  EXPECT_DOUBLE_EQ(curve.SecondsPerWeight(32), 80);
  const MatMulCurve roofline = MatMulCurve::Roofline(2.0, 1.0, 2.0, 10.0);
  EXPECT_DOUBLE_EQ(roofline.SecondsPerWeight(1), 2.0);   // 2 bytes at 1 byte/s
  EXPECT_DOUBLE_EQ(roofline.SecondsPerWeight(5), 1.0);   // 2 bytes at 2 bytes/s
  EXPECT_DOUBLE_EQ(roofline.SecondsPerWeight(40), 4.0);  // 40 rows at 10/s
}

// L e + bytes / W with the rule of common/sum_share.h, whose one other user is the worker.
TEST(Cluster, AllReducesAreTheEnginesOwn) {
  constexpr double kNear = 1e-6, kNearRate = 8e9, kFar = 20e-6, kFarRate = 1e9;
  constexpr double kSmall = 4 << 10, kLarge = 1 << 20;
  Cluster cluster;
  cluster.inside.latency_s = kNear;
  cluster.inside.bytes_s = kNearRate;
  cluster.between.latency_s = kFar;
  cluster.between.bytes_s = kFarRate;
  EXPECT_EQ(cluster.AllReduceSeconds({1}, kLarge), 0.0);
  for (const int n : {3, 4, 8}) {
    const GroupPlaces alone(n, 1);  // on a host each
    const double shared_out = 2.0 * (n - 1) / n;
    EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({n}, kSmall), kNear + (n - 1) * kSmall / kNearRate);
    EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({n}, kLarge),
                     2 * kNear + shared_out * kLarge / kNearRate);
    EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds(alone, kSmall), kFar + (n - 1) * kSmall / kFarRate);
    EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds(alone, kLarge),
                     2 * kFar + shared_out * kLarge / kFarRate);
  }
  // Two hosts exchange once, whatever the size.
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({1, 1}, kLarge), kFar + kLarge / kFarRate);
  // Four hosts of two: a rank gets its half, or its eighth, of the six ranks elsewhere and of its
  // neighbour, and hands on their sum.
  const GroupPlaces pairs(4, 2);
  const double halves = kFar + 6 * kSmall / 2 / kFarRate;
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds(pairs, kSmall),
                   halves + 2 * (kNear + kSmall / 2 / kNearRate));
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds(pairs, kLarge),
                   2 * (kFar + 6 * kLarge / 8 / kFarRate) + 2 * (kNear + kLarge / 8 / kNearRate));
  // Of three ranks on two hosts the one that is alone gets the whole message of both others.
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({2, 1}, kSmall),
                   kFar + 2 * kSmall / kFarRate + 2 * (kNear + kSmall / 2 / kNearRate));
  // Ranks of a host share its port; four share host memory as two pairs.
  cluster.between.shared = cluster.inside.shared = true;
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds(pairs, kSmall),
                   halves + 6 * kSmall / 2 / kFarRate + 2 * (kNear + kSmall / 2 / kNearRate));
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({1, 1, 1}, kSmall), kFar + 2 * kSmall / kFarRate);
  EXPECT_DOUBLE_EQ(cluster.AllReduceSeconds({4}, kSmall), kNear + 3 * 2 * kSmall / kNearRate);
}

TEST(Cluster, AllGathersReachEveryRankOnce) {
  Cluster cluster;
  cluster.inside.latency_s = 1e-6;
  cluster.inside.bytes_s = 8e9;
  cluster.between.latency_s = 20e-6;
  cluster.between.bytes_s = 1e9;
  EXPECT_DOUBLE_EQ(cluster.AllGatherSeconds({4}, 800), 1e-6 + 3 * 800 / 8e9);
  EXPECT_DOUBLE_EQ(cluster.AllGatherSeconds({1, 1, 1}, 800), 20e-6 + 2 * 800 / 1e9);
  EXPECT_DOUBLE_EQ(cluster.AllGatherSeconds({2, 2}, 800), 20e-6 + 2 * 800 / 1e9 + 1e-6 + 800 / 8e9);
}

TEST(StepCost, LadderHidesWhatStandardWaitsFor) {
  const ModelConfig standard = *NamedModel("llama-3-70b");
  const ModelConfig ladder = Ladder(standard);
  const double latency = 1e-3;  // far less than a sub-block computes
  const Cluster cluster =
      UniformCluster(PlainHost(), 2, LinkOf(latency, 1.0), LinkOf(latency, 1.0));
  const ParallelLayout layout{.tp = 2};
  const StepShape decode{1, 1, 100, true, 0};
  const StageCost a = CostOfStep({standard, layout, cluster}, decode)[0];
  const StageCost b = CostOfStep({ladder, layout, cluster}, decode)[0];
  EXPECT_NEAR(a.exposed_s, 160 * latency, 1e-9);  // two all-reduces a layer
  EXPECT_NEAR(a.hidden_s, 0.0, 1e-12);
  EXPECT_NEAR(b.exposed_s, latency, 1e-9);  // the last has nothing to hide behind
  EXPECT_NEAR(b.hidden_s, 159 * latency, 1e-9);
  EXPECT_NEAR(a.compute_s, b.compute_s, 1e-9);
}

TEST(StepCost, LinksLongerThanComputeShowTheRest) {
  ModelConfig model = Ladder(*NamedModel("llama-3-70b"));
  const Cluster cluster = UniformCluster(PlainHost(), 2, LinkOf(10, 1.0), LinkOf(10, 1.0));
  const ParallelLayout layout{.tp = 2};
  const StageCost cost = CostOfStep({model, layout, cluster}, {1, 1, 100, false, 0})[0];
  // Everything but the first sub-block hides something: M + C = hidden * 2 + exposed + first.
  EXPECT_NEAR(cost.exposed_s + cost.hidden_s, 160 * 10.0, 1e-6);
  EXPECT_LT(cost.hidden_s, cost.compute_s);
  EXPECT_GT(cost.hidden_s, cost.compute_s * 0.98);
}

TEST(StepCost, StagesWorkAtOnceOnlyWithPlansEnough) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  const Cluster cluster = UniformCluster(PlainHost(), 4, LinkOf(0, 0), LinkOf(0, 0));
  const ParallelLayout one{.tp = 1}, four{.pp = 4};
  const double alone = CostOfDecode({model, one, cluster}, 100, 1).seconds;
  EXPECT_NEAR(CostOfDecode({model, four, cluster}, 100, 1).seconds, alone, alone * 1e-9);
  // The curve is proportional to the rows, so that four plans of two rows equal one of eight.
  const double eight = CostOfDecode({model, one, cluster}, 100, 8).seconds;
  const double spread = CostOfDecode({model, four, cluster}, 100, 8).seconds;
  EXPECT_GT(eight / spread, 3.8);
  EXPECT_LE(eight / spread, 4.0);
}

TEST(StepCost, RanksOnOneCoreTakeTurns) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  HostSpec host = PlainHost();
  host.slots = 4;  // of one core
  const Cluster cluster = UniformCluster(host, 1, LinkOf(0, 0), LinkOf(0, 0));
  const ParallelLayout one{.tp = 1}, tp{.tp = 4}, pp{.pp = 4};
  const double alone = CostOfDecode({model, one, cluster}, 100, 8).seconds;
  EXPECT_NEAR(CostOfDecode({model, tp, cluster}, 100, 8).seconds, alone, alone * 0.01);
  EXPECT_NEAR(CostOfDecode({model, pp, cluster}, 100, 8).seconds, alone, alone * 0.01);
  // Three ranks have no core when a message comes: two messages in each of 80 layers.
  const double naps = 160 * 3 * 1e-9 * kSharedCoreNapNs;
  EXPECT_NEAR(CostOfDecode({model, tp, cluster}, 100, 8).exposed_s, naps, naps * 0.01);
  EXPECT_EQ(CostOfDecode({model, one, cluster}, 100, 8).exposed_s, 0.0);
}

TEST(StepCost, TheSlowestRankCounts) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  Cluster cluster = UniformCluster(PlainHost(), 2, LinkOf(0, 0), LinkOf(0, 0));
  const ParallelLayout layout{.tp = 2};
  const double equal = CostOfDecode({model, layout, cluster}, 100, 1).seconds;
  HostSpec& slow = cluster.hosts[1];
  slow.all.layers = slow.all.head = MatMulCurve({{1.0, 3e-9}});
  slow.one = slow.all;
  EXPECT_NEAR(CostOfDecode({model, layout, cluster}, 100, 1).seconds, 3 * equal, equal * 1e-6);
}

TEST(StepCost, LayersAreWeightedByTheHostsSpeed) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  Cluster cluster = UniformCluster(PlainHost(), 2, LinkOf(0, 0), LinkOf(0, 0));
  HostSpec& slow = cluster.hosts[0];
  slow.all.layers = MatMulCurve({{1.0, 3e-9}});
  slow.one = slow.all;
  const ParallelLayout layout{.pp = 2};
  const auto counts = BalanceStages({model, layout, cluster}, {1, 1, 100, false, 0});
  EXPECT_EQ(counts, (std::vector<int>{20, 60}));
}

TEST(StepCost, ShardsAreWeightedByTheHostsSpeed) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  Cluster cluster = UniformCluster(PlainHost(), 2, LinkOf(0, 0), LinkOf(0, 0));
  ParallelLayout layout{.tp = 2};
  const StepShape decode{1, 1, 100, false, 0};
  EXPECT_TRUE(BalanceShards({model, layout, cluster}, decode).empty()) << "equal hosts";
  HostSpec& slow = cluster.hosts[1];
  slow.all.layers = slow.all.head = MatMulCurve({{1.0, 3e-9}});
  slow.one = slow.all;
  const double even = CostOfDecode({model, layout, cluster}, 100, 1).seconds;
  layout.shard_shares = BalanceShards({model, layout, cluster}, decode);
  EXPECT_EQ(layout.shard_shares, (std::vector<int>{75, 25}));
  // The slow host had half of the work and has a quarter.
  EXPECT_NEAR(CostOfDecode({model, layout, cluster}, 100, 1).seconds, even / 2, even * 0.01);
}

TEST(StepCost, HalvesOfAStepHideEachOthersAllReduces) {
  ModelConfig model = *NamedModel("llama-3-70b");
  HostSpec host = PlainHost();  // its curve is proportional to the rows: halves cost nothing more
  const ParallelLayout layout{.tp = 2};
  const StepShape prefill{1, 512, 0, true, 0};
  const Cluster free = UniformCluster(host, 2, LinkOf(0, 1.0), LinkOf(0, 1.0));
  const double compute = CostOfStep({model, layout, free}, prefill)[0].total();
  const double each = compute / 160 / 2;  // an all-reduce of half as long as a sub-block
  const Cluster cluster = UniformCluster(host, 2, LinkOf(each, 1.0), LinkOf(each, 1.0));
  CostInputs inputs{model, layout, cluster};
  EXPECT_NEAR(CostOfStep(inputs, prefill)[0].total(), 1.5 * compute, compute * 0.01);
  inputs.token_split = true;
  // Attention is much shorter than the MLP: what follows the MLP's halves is not all hidden.
  EXPECT_LT(CostOfStep(inputs, prefill)[0].total(), 1.4 * compute);
  EXPECT_GT(CostOfStep(inputs, prefill)[0].hidden_s, 0.2 * compute);
  // A decode of one stream has no halves; where weights are read anew for each half it does not
  // pay.
  EXPECT_EQ(CostOfStep(inputs, {1, 1, 100, true, 0})[0].hidden_s, 0.0);
  model.schedule = ScheduleKind::kParallel;  // of other schedules too
  const double parallel = CostOfStep(inputs, prefill)[0].hidden_s;
  EXPECT_GT(parallel, 0.1 * compute);
  model.schedule = ScheduleKind::kStandard;
  host.one.layers = MatMulCurve({{1.0, 1e-9}, {1024.0, 1e-9}});
  const Cluster flat = UniformCluster(host, 2, LinkOf(1e-6, 1.0), LinkOf(1e-6, 1.0));
  CostInputs on_flat{model, layout, flat};
  const double whole = CostOfStep(on_flat, prefill)[0].total();
  on_flat.token_split = true;
  EXPECT_EQ(CostOfStep(on_flat, prefill)[0].total(), whole);
}

// Up to kCopiedRowsMax decodes are every sp rank's own: their partials go to everyone. Of more each
// rank has its part, whose queries go out and whose partials come back.
TEST(StepCost, ManyDecodesPassQueriesAndPartials) {
  const ModelConfig model = *NamedModel("llama-3-70b");
  constexpr double kLatency = 1e-3;
  Cluster cluster = UniformCluster(PlainHost(), 2, LinkOf(kLatency, 0), LinkOf(kLatency, 0));
  cluster.between.bytes_s = 1e20;  // keys and values of 100 positions are more than a query
  const ParallelLayout layout{.sp = 2};
  const auto exposed = [&](double streams) {
    return CostOfStep({model, layout, cluster}, {streams, 1, 100, false, 0})[0].exposed_s;
  };
  EXPECT_NEAR(exposed(8), 80 * kLatency, 1e-9);
  EXPECT_NEAR(exposed(9), 80 * 2 * kLatency, 1e-9);
}

TEST(Memory, ShardsAddUpToTheModel) {
  const ScratchFolder folder;
  TinyModel tiny;
  tiny.n_heads = 6;
  tiny.n_kv_heads = 3;
  tiny.n_layers = 3;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  const ModelConfig& model = checkpoint->config();
  Workload workload;
  workload.context = 100;  // 7 pages of 16
  workload.streams = 3;
  const RankMemory whole = MemoryOfRank(*checkpoint, model, {}, 0, workload);
  EXPECT_EQ(whole.kv, 2u * 3 * 3 * 16 * 2 * 7 * 16 * 3);  // K and V, layers, heads, D, f16, ...
  uint64_t weights = 0, kv = 0;
  const ParallelLayout layout{.tp = 3};
  for (int rank = 0; rank < 3; ++rank) {
    const RankMemory m = MemoryOfRank(*checkpoint, model, layout, rank, workload);
    weights += m.weights;
    kv += m.kv;
    EXPECT_LT(m.activations, whole.activations);
  }
  EXPECT_EQ(kv, whole.kv);
  EXPECT_GE(weights, whole.weights);  // norms are on every rank
  EXPECT_LT(weights, whole.weights * 1.1);
  const RankMemory about = MemoryOfRank(4.0, model, {}, 0, workload);
  EXPECT_NEAR(static_cast<double>(about.weights), static_cast<double>(whole.weights),
              0.02 * static_cast<double>(whole.weights));
}

TEST(Planner, ChoosesRefusesAndSaysWhy) {
  const ScratchFolder folder;
  TinyModel tiny;
  tiny.n_layers = 4;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  const ModelConfig& model = checkpoint->config();
  Workload workload;
  workload.context = 200;
  workload.streams = 2;
  Cluster cluster = UniformCluster(PlainHost(), 4, LinkOf(0, 0), LinkOf(0, 0));
  auto plan = PlanLayouts(*checkpoint, model, cluster, workload);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->fitting.front().layout.tp, 4);  // links cost nothing
  EXPECT_TRUE(plan->not_fitting.empty());
  cluster.inside = cluster.between = LinkOf(1.0, 0.0);  // now every message costs a second
  plan = PlanLayouts(*checkpoint, model, cluster, workload);
  EXPECT_EQ(plan->fitting.front().layout.world(), 1);
  EXPECT_EQ(WhyNot(plan->fitting.front(), plan->fitting.back()), "waits longer for its links");
  // Room for a part of the model only.
  const uint64_t whole = MemoryOfRank(*checkpoint, model, {}, 0, workload).total();
  for (HostSpec& host : cluster.hosts) host.memory_bytes = whole * 3 / 4;
  plan = PlanLayouts(*checkpoint, model, cluster, workload);
  ASSERT_FALSE(plan->fitting.empty());
  EXPECT_GT(plan->fitting.front().layout.world(), 1);
  ASSERT_FALSE(plan->not_fitting.empty());
  EXPECT_THAT(PlanText(*plan, cluster, workload, 5), HasSubstr("Would not fit"));
  EXPECT_THAT(PlanText(*plan, cluster, workload, 5), HasSubstr("which has"));
  EXPECT_THAT(PlanJson(*plan, cluster, workload, 5), HasSubstr("\"comm_exposed_seconds\""));
  // Room for the weights, but not for so many keys and values: what would fit is said.
  workload.streams = 1000;
  plan = PlanLayouts(*checkpoint, model, cluster, workload);
  ASSERT_TRUE(plan->fitting.empty());
  ASSERT_GT(plan->streams_that_fit, 0);
  EXPECT_THAT(PlanText(*plan, cluster, workload, 5),
              HasSubstr(StrCat("--streams ", plan->streams_that_fit, ".")));
  workload.streams = plan->streams_that_fit;
  EXPECT_FALSE(PlanLayouts(*checkpoint, model, cluster, workload)->fitting.empty());
  ++workload.streams;
  EXPECT_TRUE(PlanLayouts(*checkpoint, model, cluster, workload)->fitting.empty());
  workload.context = 100000;
  EXPECT_FALSE(PlanLayouts(*checkpoint, model, cluster, workload).ok());
}

TEST(Planner, ManySlotsArePlannedInTime) {
  const ScratchFolder folder;
  TinyModel tiny;
  tiny.n_layers = 4;
  tiny.context = 1 << 17;
  const auto checkpoint = TinyDummy(tiny, folder.path());
  Workload workload;
  workload.context = 1 << 17;  // 256 chunks
  HostSpec host = PlainHost();
  host.slots = 8;
  const Cluster cluster = UniformCluster(host, 8192, LinkOf(0, 0), LinkOf(0, 0));
  const auto plan = PlanLayouts(*checkpoint, checkpoint->config(), cluster, workload);
  ASSERT_TRUE(plan.ok());
  int sp = 0;
  for (const PlannedLayout& planned : plan->fitting) sp = std::max(sp, planned.layout.sp);
  EXPECT_EQ(sp, ParallelLayout::kAxisMax);
}

TEST(HostsFile, ReadsWhatItPrints) {
  constexpr char kText[] =
      R"(defaults: {slots: 2, cores: 16, memory_gb: 64, matmul_ps: "1:50 8:120.5"}
node1:
node2: {count: 3, weights_gb_s: 12, one_thread_block_us: 3}
links:
  between_latency_us: 40
  between_gb_s: 0.117
  inside_kind: ring
)";
  const auto cluster = ParseHosts(kText, "hosts.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.error().message;
  ASSERT_EQ(cluster->hosts.size(), 4u);
  EXPECT_EQ(cluster->slots(), 8);
  EXPECT_EQ(cluster->hosts[3].name, "node2.2");
  EXPECT_EQ(cluster->HostsOfRanks(5), (std::vector<int>{0, 0, 1, 1, 2}));
  EXPECT_DOUBLE_EQ(cluster->hosts[1].all.bytes_s, 12e9);
  EXPECT_DOUBLE_EQ(cluster->hosts[1].one.block_s, 3e-6);
  EXPECT_NE(cluster->hosts[1].all.block_s, 3e-6);
  EXPECT_DOUBLE_EQ(cluster->hosts[0].all.layers.SecondsPerWeight(8), 120.5e-12);
  EXPECT_EQ(cluster->inside.kind, AllReduceKind::kRing);
  const std::string printed = PrintHosts(*cluster);
  const auto again = ParseHosts(printed, "printed");
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << printed;
  EXPECT_EQ(PrintHosts(*again), printed);
}

TEST(HostsFile, RefusalsNameLineAndRemedy) {
  const auto message = [](const char* text) {
    const auto cluster = ParseHosts(text, "h.yaml");
    return cluster.ok() ? std::string("accepted") : cluster.error().message;
  };
  EXPECT_THAT(message("n1: {slot: 2}"), HasSubstr("did you mean slots?"));
  EXPECT_THAT(message("n1:\n  cores: none"), HasSubstr("h.yaml:2: n1.cores"));
  EXPECT_THAT(message("n1: {slots: 0}"), HasSubstr("from 1"));
  EXPECT_THAT(message("n1: {matmul_ps: \"8:1 4:1\"}"), HasSubstr("ascend"));
  EXPECT_THAT(message("links: {inside_gb_s: 1}"), HasSubstr("names no host"));
  // 65,536 hosts of 65,536 slots each: more than an int holds.
  EXPECT_THAT(message("n1: {slots: 4}\nn2:\n  slots: 65536\n  count: 65536"),
              HasSubstr("h.yaml:3: n2: 65536 hosts of 65536 slots make 4294967300 slots together; "
                        "at most 65536"));
  EXPECT_EQ(message("n1: {slots: 65536}"), "accepted");
  EXPECT_THAT(message("n1: {slots: 65536}\nn2:"), HasSubstr("h.yaml:2: n2"));
}

TEST(NearestLayouts, RefusalNamesWhatWorks) {
  const ScratchFolder folder;
  TinyModel tiny;  // 4 heads, 2 layers, 256 positions
  const auto checkpoint = TinyDummy(tiny, folder.path());
  const ModelConfig& model = checkpoint->config();
  const auto refusal = [&](ParallelLayout layout, int64_t slots) {
    const Status status = CheckLayoutLimits(layout, model, LimitsOf(model, 0, 16, slots));
    return status.ok() ? std::string("accepted") : status.error().message;
  };
  EXPECT_EQ(refusal({.tp = 4, .pp = 2}, 8), "accepted");
  EXPECT_EQ(refusal({.pp = 3}, 0),
            "pp = 3: the model has 2 layers; allowed are 1 to 2; the nearest that work: "
            "tp 1 x pp 1 x sp 3, tp 3 x pp 1 x sp 1, tp 1 x pp 2 x sp 1");
  EXPECT_THAT(refusal({.tp = 8}, 0), HasSubstr("tp = 8: the model has 4 query heads"));
  EXPECT_THAT(refusal({.tp = 8}, 0), HasSubstr("tp 4 x pp 2 x sp 1"));
  EXPECT_THAT(refusal({.sp = 17}, 0), HasSubstr("at most 16 KV pages"));
  EXPECT_THAT(refusal({.tp = 4, .pp = 2}, 6), HasSubstr("the hosts have 6 slots"));
  EXPECT_THAT(refusal({.tp = 4, .pp = 2}, 6), HasSubstr("tp 3 x pp 2 x sp 1"));
  // No axis is so large that its product overflows.
  EXPECT_THAT(refusal({.tp = 4096, .pp = 4096, .sp = 4096}, 0), HasSubstr("the nearest that work"));
}

}  // namespace
}  // namespace echelon
