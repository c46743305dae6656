// echelon status: what a running service is doing.

#include "client/cli/answer.h"
#include "client/cli/commands.h"
#include "client/cli/progress.h"
#include "client/cpp/client.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr int64_t kTimeoutMs = 5'000;

Json StatusToJson(const ServiceStatus& status) {
  Json out = Json::MakeObject();
  out.Set("state", status.state);
  out.Set("version", status.version);
  out.Set("model", status.model);
  out.Set("epoch", status.epoch);
  out.Set("layout", LayoutToJson(status.layout));
  out.Set("schedule", status.schedule);
  out.Set("running", status.running);
  out.Set("waiting", status.waiting);
  out.Set("kv_pages_free", status.kv_pages_free);
  out.Set("kv_pages_total", status.kv_pages_total);
  out.Set("context_max", status.context_max);
  out.Set("message", status.message);
  Json ranks = Json::MakeArray();
  for (const RankProgress& rank : status.ranks) {
    Json item = Json::MakeObject();
    item.Set("rank", rank.rank);
    item.Set("host", rank.host);
    item.Set("backend", rank.backend);
    item.Set("bytes_done", rank.bytes_done);
    item.Set("bytes_total", rank.bytes_total);
    item.Set("token_bytes", rank.token_bytes);
    item.Set("kv_position_bytes", rank.kv_position_bytes);
    item.Set("read_bytes_per_s", rank.read_bytes_per_s);
    item.Set("joined", rank.joined);
    item.Set("ready", rank.ready);
    ranks.Append(std::move(item));
  }
  out.Set("ranks", std::move(ranks));
  return out;
}

}  // namespace

Status RunStatus(const StatusOptions& options) {
  ClientOptions connect;
  connect.endpoint = options.connect;
  ASSIGN_OR_RETURN(const auto client, Client::Connect(connect));
  ASSIGN_OR_RETURN(const ServiceStatus status, client->GetStatus(kTimeoutMs));
  if (options.json) {
    PrintText(StatusToJson(status).Dump() + "\n");
    return Status();
  }
  PrintText(DescribeProgress(status) + "\n");
  PrintText(StrCat("model ", status.model, ", version ", status.version, ", epoch ", status.epoch,
                   ", schedule ", status.schedule, "\n", "layout tp ", status.layout.tp, " x pp ",
                   status.layout.pp, " x sp ", status.layout.sp, ", context ", status.context_max,
                   " tokens\n", status.running, " running, ", status.waiting, " waiting, ",
                   status.kv_pages_free, " of ", status.kv_pages_total, " KV pages free\n"));
  for (const RankProgress& rank : status.ranks) {
    if (rank.ready) PrintText(StrCat("rank ", rank.rank, " computes on ", rank.backend, "\n"));
  }
  return Status();
}

}  // namespace echelon
