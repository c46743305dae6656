#include "coordinator/launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/network.h"
#include "common/strings.h"
#include "tests/support/model_builder.h"

namespace echelon {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

LaunchRequest Request(const std::string& launcher) {
  LaunchRequest request;
  request.settings.launcher = launcher;
  request.world = 3;
  request.worker_program = "/opt/echelon-worker";
  request.endpoint = "tcp://10.0.0.1:7000";
  request.epoch = 4;
  request.marker = "1.2.4";
  return request;
}

std::string Line(const LaunchRequest& request) {
  const auto command = MakeLaunchCommand(request);
  return command.ok() ? Join(command->words, " ") : command.error().message;
}

TEST(Launcher, LocalStaysOffTheNetwork) {
  LaunchRequest request = Request("local");
  request.session_folder = "/tmp/s";
  request.memory_folder = "/dev/shm/m";
  const std::string line = Line(request);
  EXPECT_THAT(line, HasSubstr("mpirun -n 3 --oversubscribe --bind-to none"));
  EXPECT_THAT(line, HasSubstr("--mca btl self,vader --mca"));
  EXPECT_THAT(line, HasSubstr("--mca orte_tmpdir_base /tmp/s"));
  EXPECT_THAT(line, HasSubstr("--mca btl_vader_backing_directory /dev/shm/m"));
  EXPECT_THAT(line, Not(HasSubstr("allow-run-as-root")));
  EXPECT_THAT(
      line, ::testing::EndsWith("/opt/echelon-worker --coordinator tcp://10.0.0.1:7000 --epoch 4"));
  request.root = true;
  EXPECT_THAT(Line(request), HasSubstr("--allow-run-as-root"));
  EXPECT_THAT(MakeLaunchCommand(request)->environment, Contains(Pair("ECHELON_GROUP", "1.2.4")));
  EXPECT_THAT(MakeLaunchCommand(request)->environment,
              Contains(Pair("HWLOC_COMPONENTS", "linux,stop")));
}

TEST(Launcher, HostfilePinsTheInterfaceForBothNetworks) {
  LaunchRequest request = Request("hostfile");
  request.settings.hosts = "10.0.0.1:1,10.0.0.2:2";
  request.settings.interface = "10.0.0.0/24";
  request.settings.remote_agent = "/opt/agent.sh";
  request.settings.mpirun_extra = "--mca plm_base_verbose 5";
  const std::string line = Line(request);
  for (const char* words :
       {"-H 10.0.0.1:1,10.0.0.2:2", "--mca btl self,vader,tcp",
        "--mca btl_tcp_if_include 10.0.0.0/24", "--mca oob_tcp_if_include 10.0.0.0/24",
        "--mca plm_rsh_agent /opt/agent.sh", "--mca btl_tcp_eager_limit 4194304",
        "--mca mpi_event_tick_rate 1", "--mca oob_tcp_keepalive_time 2",
        "--mca plm_base_verbose 5 /opt/echelon-worker"}) {
    EXPECT_THAT(line, HasSubstr(words));
  }
}

TEST(Launcher, RanksOfOtherHostsAreToldWhatNcclAndCudaAre) {
  LaunchRequest request = Request("hostfile");
  request.settings.hosts = "10.0.0.1:1,10.0.0.2:2";
  request.forwarded = {"CUDA_VISIBLE_DEVICES", "NCCL_DEBUG"};
  EXPECT_THAT(Line(request), HasSubstr("-x ECHELON_GROUP "));
  EXPECT_THAT(Line(request), HasSubstr("-x CUDA_VISIBLE_DEVICES -x NCCL_DEBUG "));
  request.settings.launcher = "local";  // they have mpirun's environment
  EXPECT_THAT(Line(request), Not(HasSubstr("NCCL_DEBUG")));
}

TEST(ForwardedVariables, AreThoseThatHoldOnAllHosts) {
  const char* const environment[] = {"PATH=/bin",
                                     "NCCL_SOCKET_IFNAME=eth",
                                     "NCCL_HOSTID=me",
                                     "NCCL_DEBUG=WARN",
                                     "XNCCL_DEBUG=1",
                                     "CUDA_HOME=/usr/local/cuda",
                                     "CUDA_DEVICE_ORDER=PCI_BUS_ID",
                                     "CUDA_VISIBLE_DEVICES=0,1",
                                     "ODD",
                                     nullptr};
  EXPECT_THAT(
      ForwardedVariables(environment),
      ElementsAre("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME"));
  const char* const by_uuid[] = {"CUDA_VISIBLE_DEVICES=GPU-8932f937,MIG-1", nullptr};
  EXPECT_THAT(ForwardedVariables(by_uuid), ElementsAre());
}

TEST(Launcher, SlurmEndsTheStepWithItsFirstDeadRank) {
  const auto command = MakeLaunchCommand(Request("slurm"));
  ASSERT_TRUE(command.ok());
  EXPECT_THAT(Join(command->words, " "),
              ::testing::StartsWith("srun --mpi=pmix --kill-on-bad-exit=1 -n 3"));
  EXPECT_THAT(command->environment, Contains(Pair("OMPI_MCA_pml", "ob1")));
}

TEST(Launcher, ExternalStartsNothing) {
  EXPECT_TRUE(MakeLaunchCommand(Request("external"))->words.empty());
  EXPECT_THAT(Line(Request("rsh")), HasSubstr("must be local, hostfile, slurm or external"));
}

TEST(ExpectedHosts, FillSlotsInOrder) {
  GroupSettings settings;
  settings.launcher = "hostfile";
  settings.hosts = "n1:1,n2:2";
  EXPECT_THAT(*ExpectedHosts(settings, 3), ElementsAre("n1", "n2", "n2"));
  const auto few = ExpectedHosts(settings, 4);
  ASSERT_FALSE(few.ok());
  EXPECT_THAT(few.error().message, HasSubstr("3 slots for 4 ranks"));
  EXPECT_EQ(*SlotsOf(settings), 3);
  settings.launcher = "local";
  EXPECT_THAT(*ExpectedHosts(settings, 2), ElementsAre(HostName(), HostName()));
  EXPECT_EQ(*SlotsOf(settings), 0);  // as many as are asked for
}

TEST(ExpectedHosts, ReadHostFiles) {
  const ScratchFolder folder;
  const std::string path = folder / "hosts";
  std::ofstream(path) << "# the cluster\nn1 slots=2 max_slots=4\n\n  n2 # one\n";
  GroupSettings settings;
  settings.launcher = "hostfile";
  settings.hosts = path;
  EXPECT_THAT(*ExpectedHosts(settings, 3), ElementsAre("n1", "n1", "n2"));
  std::filesystem::remove(path);
  for (const char* bad : {"", "/no/such/file", "n1:0", "n1:x", ":2", "n1 slots=-1"}) {
    settings.hosts = bad;
    const auto hosts = ExpectedHosts(settings, 1);
    ASSERT_FALSE(hosts.ok()) << bad;
    EXPECT_EQ(hosts.error().field, "group.hosts");
  }
}

TEST(ControlBindEndpoint, LeavesLoopbackWhenOtherHostsMustReachIt) {
  GroupSettings settings;
  settings.endpoint = "tcp://127.0.0.1:7001";
  EXPECT_EQ(*ControlBindEndpoint(settings), "tcp://127.0.0.1:7001");
  settings.launcher = "hostfile";
  settings.hosts = "localhost:2";
  EXPECT_EQ(*ControlBindEndpoint(settings), "tcp://127.0.0.1:7001") << "one host after all";
  settings.hosts = "localhost:1,203.0.113.9:1";
  settings.interface = "lo";
  EXPECT_EQ(*ControlBindEndpoint(settings), "tcp://127.0.0.1:7001");
  settings.interface = "eth77";
  EXPECT_EQ(ControlBindEndpoint(settings).error().field, "group.interface");
  settings.interface = "";
  settings.endpoint = "tcp://10.9.8.7:7001";
  EXPECT_EQ(*ControlBindEndpoint(settings), "tcp://10.9.8.7:7001") << "given by hand";
}

}  // namespace
}  // namespace echelon
