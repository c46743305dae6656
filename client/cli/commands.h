#pragma once
// The subcommands. Each prints its result on stdout and what it is doing on stderr; the error it
// returns is printed by main as the last line of stderr (errors.h says with which exit status).

#include "client/cli/interrupts.h"
#include "client/cli/options.h"
#include "common/result.h"

namespace echelon {

Status RunGenerate(const GenerateOptions& options, Interrupts& interrupts);
Status RunRun(const RunOptions& options, Interrupts& interrupts);
Status RunChat(const ChatOptions& options, Interrupts& interrupts);
Status RunPerplexity(const PerplexityOptions& options, Interrupts& interrupts);
Status RunBench(const BenchOptions& options, Interrupts& interrupts);
Status RunTrace(const TraceOptions& options, Interrupts& interrupts);
Status RunTokenize(const TokenizeOptions& options);
Status RunInspect(const InspectOptions& options);
Status RunServe(const ServeOptions& options, Interrupts& interrupts);
Status RunCheckConfig(const CheckConfigOptions& options);
Status RunStatus(const StatusOptions& options);
Status RunPlan(const PlanOptions& options);
Status RunSimulate(const SimulateOptions& options);

}  // namespace echelon
