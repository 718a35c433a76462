#include "server/daemon.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/step/thread_pool.h"
#include "server/log.h"
#include "server/machine_memory.h"

namespace spherical::server {
namespace {

// What clients have to take their last messages after the engine is done with them.
constexpr absl::Duration kFarewell = absl::Seconds(1);

double Mib(ByteCount bytes) { return static_cast<double>(bytes.value()) / (1 << 20); }

ByteCount PoolOf(const LoadedModel& model) {
  return ByteCount(model.options.pool_pages.value() * model.options.kv.page_bytes.value());
}

void LogLoaded(const LoadedModel& model, const Config& config, int32_t threads, absl::Duration took) {
  const ByteCount pool = PoolOf(model);
  const int64_t pool_tokens = pool.value() / model.served.kv_bytes_per_token;
  Log(LogLevel::kInfo,
      absl::StrFormat("loaded %s in %.2f s: weights %.0f MiB, %s activations, context %d; KV pool %.0f MiB, room for %d tokens; %d threads",
                      model.served.name, absl::ToDoubleSeconds(took), Mib(ByteCount(model.served.weight_bytes)), config.activations,
                      model.served.context_max, Mib(pool), pool_tokens, threads),
      {{"model", model.served.name},
       {"seconds", absl::ToDoubleSeconds(took)},
       {"weight_bytes", model.served.weight_bytes},
       {"pool_bytes", pool.value()},
       {"pool_pages", model.options.pool_pages.value()},
       {"page_bytes", model.options.kv.page_bytes.value()},
       {"context_max", int64_t{model.served.context_max}},
       {"threads", int64_t{threads}}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const Config& config, Options options) {
  const auto address = ParseAddress(config.grpc_listen);
  if (!address.ok()) return address.status();
  const ByteCount on_host(config.device == "cpu" ? PoolBytesOf(config) : 0);  // a device's own memory is asked as the model is loaded
  if (absl::Status fits = CheckFits(kPoolSetting, on_host, ReadMachineMemory()); !fits.ok()) return fits;
  auto tenants = TenantBook::Open(config);
  if (!tenants.ok()) return tenants.status();
  std::unique_ptr<Daemon> daemon(new Daemon(config, std::move(options), *std::move(tenants)));
  auto listener = Listen(*address, {&daemon->health_, &daemon->inference_, &daemon->admin_});
  if (!listener.ok()) return listener.status();
  daemon->listener_ = *std::move(listener);
  if (!config.quotas.empty()) {
    daemon->quota_watch_ = std::make_unique<QuotaWatch>(config.quotas, [book = daemon->tenants_.get()] { book->Reload(); });
  }
  const Address& got = daemon->address();
  Log(LogLevel::kInfo, absl::StrCat("listening on ", got.host, ":", got.port), {{"address", got.host}, {"port", int64_t{got.port}}});
  daemon->life_ = std::thread([d = daemon.get()] {
    d->end_ = d->Live();
    d->ended_.store(true);
    if (d->options_.on_end) d->options_.on_end();
  });
  return daemon;
}

Daemon::Daemon(const Config& config, Options options, std::unique_ptr<TenantBook> tenants)
    : config_(config),
      options_(std::move(options)),
      tenants_(std::move(tenants)),
      inference_(intake_, clock_, *tenants_,
                 {.stream_buffer = static_cast<int32_t>(config.stream_buffer),
                  .seed = options_.seed,
                  .trusted_metadata = config.tenant_trusted_metadata == "on"}),
      admin_([this] { return Stats(); }, clock_, *tenants_) {
  last_stats_.started = clock_.Now();
}

Daemon::~Daemon() {
  if (!life_.joinable()) return;
  Stop();
  Stop();
  Wait().IgnoreError();
}

absl::Status Daemon::Wait() {
  if (life_.joinable()) life_.join();
  return end_;
}

// The life of the daemon after Start, and the only place that knows its whole order.
absl::Status Daemon::Live() {
  const int32_t threads = config_.threads > 0 ? static_cast<int32_t>(config_.threads) : engine::UsableCores();
  engine::ThreadPool pool(threads);
  const absl::Time start = clock_.Now();
  Log(LogLevel::kInfo, absl::StrCat("loading ", config_.model), {{"file", config_.model}});
  auto model = LoadModel(config_, pool, clock_, stop_loading_);
  if (!model.ok()) {
    CloseDoor();
    return stop_loading_.load() ? absl::OkStatus() : model.status();
  }
  LogLoaded(*model, config_, threads, clock_.Now() - start);
  auto quotas = tenants_->Attach(intake_, model->options.kv.page_bytes, PoolOf(*model));
  if (!quotas.ok()) {
    CloseDoor();
    return quotas.status();
  }
  model->options.quotas = *std::move(quotas);

  absl::Status end;
  {
    engine::Engine engine(model->options, *model->served.tokenizer, *model->stepper, intake_, clock_);
    if (OpenDoor(engine, model->served)) end = engine.Run();
    if (!end.ok()) Log(LogLevel::kError, absl::StrCat("the engine ended: ", end.message()));
    health_.SetReady(false);
    engine::MutexLock lock(mutex_);
    last_stats_ = engine.Stats();
    engine_ = nullptr;
  }
  CloseDoor();
  return end;
}

bool Daemon::OpenDoor(engine::Engine& engine, const ServedModel& model) {
  engine::MutexLock lock(mutex_);
  if (stops_ > 0) return false;
  engine_ = &engine;
  inference_.Serve(model);
  health_.SetReady(true);
  Log(LogLevel::kInfo, absl::StrCat("serving ", model.name), {{"model", model.name}});
  return true;
}

void Daemon::Stop() {
  stop_loading_.store(true);
  engine::MutexLock lock(mutex_);
  ++stops_;
  health_.SetReady(false);
  deadline_ = clock_.Now() + (stops_ == 1 ? absl::Milliseconds(config_.drain_grace_ms) : absl::ZeroDuration());
  if (engine_ == nullptr) return;
  const engine::EngineStats stats = engine_->Stats();
  Log(LogLevel::kInfo,
      absl::StrFormat("draining: %d running, %d waiting, %.1f s to finish", stats.running, stats.waiting,
                      absl::ToDoubleSeconds(deadline_ - clock_.Now())),
      {{"running", int64_t{stats.running}}, {"waiting", int64_t{stats.waiting}}});
  engine_->Drain(deadline_);
}

void Daemon::CloseDoor() {
  const absl::Time farewell = [&] {
    engine::MutexLock lock(mutex_);
    return std::max(deadline_, clock_.Now() + kFarewell);
  }();
  quota_watch_.reset();  // joins: a last reload is done or will not be
  health_.EndWatches();
  admin_.EndWatches();
  listener_.server->Shutdown(absl::ToChronoTime(farewell));
  listener_.server->Wait();
  Log(LogLevel::kInfo, "stopped");
}

engine::EngineStats Daemon::Stats() const {
  engine::MutexLock lock(mutex_);
  return engine_ != nullptr ? engine_->Stats() : last_stats_;
}

}  // namespace spherical::server
