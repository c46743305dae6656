// The program `echelon`: parses its command line, runs one subcommand, says what went wrong.

#include <cstdio>
#include <string>
#include <vector>

#include "client/cli/answer.h"
#include "client/cli/command_line.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/interrupts.h"
#include "common/strings.h"

namespace echelon {
namespace {

// One call per subcommand.
class Runner {
 public:
  explicit Runner(Interrupts& interrupts) : interrupts_(interrupts) {}
  Status operator()(const GenerateOptions& options) { return RunGenerate(options, interrupts_); }
  Status operator()(const RunOptions& options) { return RunRun(options, interrupts_); }
  Status operator()(const ChatOptions& options) { return RunChat(options, interrupts_); }
  Status operator()(const PerplexityOptions& options) {
    return RunPerplexity(options, interrupts_);
  }
  Status operator()(const BenchOptions& options) { return RunBench(options, interrupts_); }
  Status operator()(const TraceOptions& options) { return RunTrace(options, interrupts_); }
  Status operator()(const TokenizeOptions& options) { return RunTokenize(options); }
  Status operator()(const InspectOptions& options) { return RunInspect(options); }
  Status operator()(const ServeOptions& options) { return RunServe(options, interrupts_); }
  Status operator()(const CheckConfigOptions& options) { return RunCheckConfig(options); }
  Status operator()(const StatusOptions& options) { return RunStatus(options); }
  Status operator()(const PlanOptions& options) { return RunPlan(options); }
  Status operator()(const SimulateOptions& options) { return RunSimulate(options); }

 private:
  Interrupts& interrupts_;
};

int Fail(const Error& error) {
  PrintNote(StrCat("echelon: error: ", error.message, "\n"));
  return ExitStatusOf(error);
}

int Main(const std::vector<std::string>& arguments) {
  const auto parsed = ParseCommandLine(arguments);
  if (!parsed.ok()) return Fail(parsed.error());
  if (const auto* help = std::get_if<HelpText>(&*parsed)) {
    PrintText(help->text);
    return 0;
  }
  Interrupts interrupts;
  const Status status = std::visit(Runner(interrupts), std::get<Command>(*parsed));
  return status.ok() ? 0 : Fail(status.error());
}

}  // namespace
}  // namespace echelon

int main(int argc, char** argv) {
  return echelon::Main(std::vector<std::string>(argv + 1, argv + argc));
}
