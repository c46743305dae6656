// echelon plan: which layout of a model suits which hosts, before anything is loaded.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "client/cli/answer.h"
#include "client/cli/child_process.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "common/model/checkpoint.h"
#include "common/planner/hosts_file.h"
#include "common/planner/planner.h"
#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon {

namespace {

// The worker measures, since it alone holds the kernels; its hosts file goes to our stdout.
Status Calibrate(const PlanOptions& options) {
  const std::string program = ExecutableFolder() + "/echelon-worker";
  const pid_t child = fork();
  if (child < 0) return InternalError("fork failed");
  if (child == 0) {
    execl(program.c_str(), program.c_str(), "--calibrate", options.model.c_str(), "--backend",
          options.backend.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return InternalError(StrCat("calibration by ", program, " failed; is it built or installed?"));
}

// Of one element of a key or value; q8_0 has a float16 scale for each 32 bytes.
double KvValueBytes(const std::string& type) {
  return type == "f32" ? 4.0 : type == "f16" ? 2.0 : 34.0 / 32;
}

}  // namespace

Status RunPlan(const PlanOptions& options) {
  if (options.calibrate) return Calibrate(options);
  CheckpointOptions open;
  open.load_format = options.load_format;
  ASSIGN_OR_RETURN(const auto checkpoint, OpenCheckpoint(options.model, open));
  ModelSettings settings;
  if (!options.schedule.empty()) settings.schedule = options.schedule;
  settings.ladder_layers = options.ladder_layers;
  settings.desync_pattern = options.desync_pattern;
  ASSIGN_OR_RETURN(const EffectiveModel effective, ModelFrom(checkpoint->config(), settings));
  ASSIGN_OR_RETURN(const Cluster cluster, LoadHosts(options.hosts));
  if (!effective.warning.empty()) PrintNote(effective.warning + "\n");

  Workload workload;
  workload.context = options.context > 0
                         ? options.context
                         : std::min<int64_t>(effective.model.context_max, kPlanContextDefault);
  workload.streams = options.streams;
  workload.step_tokens_max = options.step_tokens_max;
  workload.kv_value_bytes = KvValueBytes(options.kv_type);
  auto plan = PlanLayouts(*checkpoint, effective.model, cluster, workload);
  if (!plan.ok()) return UsageError(plan.error().message);
  const auto rows = static_cast<int>(options.rows);
  PrintText(options.json ? PlanJson(*plan, cluster, workload, rows) + "\n"
                         : PlanText(*plan, cluster, workload, rows));
  if (!plan->fitting.empty()) return {};
  return ResourceExhausted(StrCat("no layout fits the hosts' memory: the nearest, ",
                                  LayoutName(plan->not_fitting.front().layout), ", ",
                                  WhatIsLacking(plan->not_fitting.front(), cluster)));
}

}  // namespace echelon
