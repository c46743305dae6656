// echelon trace: one timeline of all ranks of a local group, from the files they leave behind.

#include <filesystem>
#include <fstream>
#include <sstream>

#include "client/cli/answer.h"
#include "client/cli/bench.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/local_config.h"
#include "client/cli/service.h"
#include "common/run_setup.h"
#include "common/strings.h"

namespace echelon {

namespace {

// A folder beside the trace where the ranks write their parts; gone with this object.
class PartsFolder {
 public:
  static Result<std::unique_ptr<PartsFolder>> Make(const std::string& out) {
    std::error_code error;
    const auto path = std::filesystem::absolute(out + ".parts", error);
    if (!error) std::filesystem::create_directory(path, error);
    if (error) return UsageError(StrCat("cannot make ", path.string(), ": ", error.message()));
    return std::unique_ptr<PartsFolder>(new PartsFolder(path.string()));
  }
  ~PartsFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit PartsFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

// The ranks' arrays of events, each "[\n...\n]\n", as one.
Status Join(const std::string& folder, int64_t ranks, const std::string& out) {
  std::ofstream joined(out, std::ios::binary);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const std::string path = StrCat(folder, "/rank-", rank, ".json");
    std::ifstream part(path, std::ios::binary);
    std::stringstream text;
    text << part.rdbuf();
    const std::string events = text.str();
    if (!part || events.size() < 5) return InternalError(StrCat("rank ", rank, " left no trace"));
    joined << (rank == 0 ? "[\n" : ",\n") << events.substr(2, events.size() - 5);
  }
  joined << "\n]\n";
  joined.close();
  if (joined) return {};
  return Unavailable(StrCat("cannot write ", out, ": is the folder writable, with room?"));
}

}  // namespace

Status RunTrace(const TraceOptions& options, Interrupts& interrupts) {
  ASSIGN_OR_RETURN(const auto parts, PartsFolder::Make(options.out));
  ServiceOptions service_options = options.service;
  service_options.settings.emplace_back("worker.trace", parts->path());
  ASSIGN_OR_RETURN(const ServiceConfig config, LocalConfig(service_options));
  ASSIGN_OR_RETURN(const RunSetup setup, SetUpRun(config));
  ASSIGN_OR_RETURN(const int token_ids, UsableTokenIds(config, setup.effective.model));
  ASSIGN_OR_RETURN(const auto service, Service::Open(service_options, interrupts));
  const auto on_wait = [&]() -> Status {
    if (interrupts.Take()) return Error{ErrorCode::kCancelled, "interrupted"};
    return service->Check();
  };
  const BenchLoad load = {options.prompt, options.gen, options.streams, token_ids};
  Bench bench(service->client(), load, static_cast<uint64_t>(DrawSeed()), on_wait);
  const auto rates = bench.Run();
  const Status closed = service->Close();  // the ranks write as they end
  if (!rates.ok()) return rates.error();
  RETURN_IF_ERROR(closed);
  RETURN_IF_ERROR(Join(parts->path(), setup.layout.world(), options.out));
  PrintText(StrCat("wrote ", options.out, " (", setup.layout.world(),
                   " ranks): open it at ui.perfetto.dev or chrome://tracing\n"));
  return {};
}

}  // namespace echelon
