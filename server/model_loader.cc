#include "server/model_loader.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/kv/kv_mode.h"
#include "engine/kv/prefill_workspace.h"
#include "engine/model/model_geometry.h"
#include "engine/model/transformer_spec.h"
#include "engine/model/weights.h"
#include "engine/step/cpu_stepper.h"
#include "engine/step/cuda_stepper.h"
#include "engine/step/device_choice.h"
#include "server/cuda_limits.h"
#include "server/geometry_loader.h"
#include "server/log.h"
#include "server/machine_memory.h"
#include "server/model_files.h"

namespace spherical::server {
namespace {

// A line now and then, from whichever thread gets there.
class Progress {
 public:
  explicit Progress(const engine::Clock& clock) : clock_(clock), next_(NextAfter(clock.Now())) {}

  void operator()(int64_t done, int64_t total) {
    const absl::Time now = clock_.Now();
    int64_t due = next_.load();
    if (absl::ToUnixNanos(now) < due || !next_.compare_exchange_strong(due, NextAfter(now))) return;
    Log(LogLevel::kInfo, absl::StrFormat("loading: %d of %d MB", done / 1'000'000, total / 1'000'000), {{"done", done}, {"total", total}});
  }

 private:
  static int64_t NextAfter(absl::Time now) { return absl::ToUnixNanos(now + absl::Seconds(1)); }
  const engine::Clock& clock_;
  std::atomic<int64_t> next_;
};

absl::StatusOr<int32_t> ContextOf(const Config& config, const engine::TransformerSpec& spec) {
  if (config.context_max == 0) return spec.context_max;
  if (config.context_max <= spec.context_max) return static_cast<int32_t>(config.context_max);
  return absl::InvalidArgumentError(absl::StrCat("context.max (--context-max): ", config.context_max, " is more than the ",
                                                 spec.context_max, " positions that ", config.model, " was trained for"));
}

absl::StatusOr<std::optional<engine::ChatTemplate>> ChatOf(absl::StatusOr<engine::ChatTemplate> chat) {
  if (chat.ok()) return std::optional(*std::move(chat));
  if (!absl::IsNotFound(chat.status()) && !absl::IsUnimplemented(chat.status())) return chat.status();
  Log(LogLevel::kWarning, absl::StrCat("no chat: ", chat.status().message()));
  return std::nullopt;
}

// Tokens of the prefill workspace: none in mode `exact`, whose pages are exact themselves.
absl::StatusOr<TokenCount> WorkspaceOf(const Config& config, const engine::EngineOptions& options) {
  using engine::PrefillWorkspace;
  const engine::KvShape& kv = options.kv;
  if (!kv.mode.coded) return TokenCount(0);
  if (config.kv_prefill_workspace_bytes == 0) return PrefillWorkspace::ForContext(WorkspaceShape(kv), options.context_max);
  const int64_t token_bytes = engine::ExactTokenBytes(kv).value();
  const TokenCount tokens(config.kv_prefill_workspace_bytes / token_bytes);
  const TokenCount least = PrefillWorkspace::Least(WorkspaceShape(kv), options.context_max, engine::kStepRowsMax);
  if (tokens >= least) return tokens;
  return absl::InvalidArgumentError(absl::StrCat("kv.prefill_workspace_bytes (--kv-prefill-workspace-bytes): ",
                                                 config.kv_prefill_workspace_bytes, " bytes hold ", tokens.value(), " tokens of ",
                                                 token_bytes, " bytes; one chunk of a prompt needs ", least.value(), " tokens, ",
                                                 least.value() * token_bytes, " bytes (0: enough for a whole context)"));
}

PageCount LeastPool(const engine::KvShape& kv) { return engine::ReservedPages(kv, TokenCount(2)); }  // one token in, one out

// A pool of so many bytes; 0: the device will tell.
absl::Status SetPool(const Config& config, int64_t bytes, engine::EngineOptions& options) {
  options.pool_pages = PageCount(bytes / options.kv.page_bytes.value());
  const PageCount least = LeastPool(options.kv);
  if (bytes == 0 || options.pool_pages >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("kv.pool_bytes (--kv-pool-bytes): ", bytes, " bytes hold ", options.pool_pages.value(),
                                                 " pages of ", options.kv.page_bytes.value(), " bytes; the shortest request to ",
                                                 ModelName(config.model), " needs ", least.value()));
}

absl::StatusOr<engine::EngineOptions> OptionsOf(const Config& config, const engine::TransformerSpec& spec) {
  const auto context = ContextOf(config, spec);
  if (!context.ok()) return context.status();
  engine::EngineOptions options;
  options.kv = engine::MakeKvShape(spec.layers, spec.kv_heads, spec.head_dim, engine::FindKvMode(config.kv_mode).value(),
                                   spec.heads / spec.kv_heads, spec.windows);
  if (absl::Status known = SetPool(config, config.kv_pool_bytes, options); !known.ok()) return known;
  options.context_max = *context;
  auto workspace = WorkspaceOf(config, options);
  if (!workspace.ok()) return workspace.status();
  options.workspace_tokens = *workspace;
  options.running_max = static_cast<int32_t>(config.limits_running);
  options.waiting_max = static_cast<int32_t>(config.limits_waiting);
  options.target_step = absl::Milliseconds(config.target_step_ms);
  options.stall_timeout = absl::Milliseconds(config.stream_stall_timeout_ms);
  return options;
}

// What runs the model, and a line about it. What CUDA does not do is an error where CUDA was asked for, and the CPU's work for `auto`.
absl::StatusOr<engine::DeviceChoice> DeviceOf(const Config& config, const engine::EngineOptions& options) {
  auto choice = engine::ChooseDevice(config.device);
  if (!choice.ok()) return choice.status();
  if (const std::string why = choice->on_cuda() ? WhyNotOnCuda(options) : ""; !why.empty()) {
    if (config.device != "auto") return absl::InvalidArgumentError(absl::StrCat("device (--device): ", config.device, ": ", why));
    choice = engine::DeviceChoice{.what = "cpu", .why = why};
  }
  const std::string because = choice->why.empty() ? "" : absl::StrCat(": ", choice->why);
  Log(LogLevel::kInfo, absl::StrCat("running on ", choice->what, because), {{"device", choice->what}});
  return choice;
}

ServedModel Describe(const Config& config, const engine::TransformerSpec& spec, const engine::EngineOptions& options) {
  const int64_t context_bytes = engine::ReservedPages(options.kv, TokenCount(options.context_max)).value() * options.kv.page_bytes.value();
  ServedModel served;
  served.name = ModelName(config.model);
  served.architecture = spec.architecture;
  served.context_max = options.context_max;
  served.layers = spec.layers;
  served.heads = spec.heads;
  served.kv_heads = spec.kv_heads;
  served.head_dim = spec.head_dim;
  served.kv_mode = config.kv_mode;
  served.kv_bytes_per_token = CeilDiv(context_bytes, options.context_max);
  return served;
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const Config& config, engine::ThreadPool& pool, const engine::Clock& clock,
                                      const std::atomic<bool>& stop) {
  auto files = OpenModel(config.model);
  if (!files.ok()) return files.status();
  engine::TransformerSpec& spec = files->spec;
  auto options = OptionsOf(config, spec);
  if (!options.ok()) return options.status();
  auto device = DeviceOf(config, *options);
  if (!device.ok()) return device.status();
  if (device->on_cuda()) options->kv.seal_coordinates = engine::kCudaSealCoordinatesPerStep;
  const ByteCount workspace_bytes(options->workspace_tokens.value() * engine::ExactTokenBytes(options->kv).value());
  if (!device->on_cuda()) {
    const int64_t asked = config.kv_pool_bytes > 0 ? config.kv_pool_bytes : kPoolBytesOnCpu;
    if (absl::Status known = SetPool(config, asked, *options); !known.ok()) return known;
    const ByteCount pool_bytes(options->pool_pages.value() * options->kv.page_bytes.value());
    const absl::Status fits = CheckFits(kPoolAndWorkspaceSettings, pool_bytes + workspace_bytes, ReadMachineMemory());
    if (!fits.ok()) return fits;
  }
  auto tokenizer = engine::MakeTokenizer(std::move(files->tokenizer));
  if (!tokenizer.ok()) return tokenizer.status();
  auto chat = ChatOf(std::move(files->chat));
  if (!chat.ok()) return chat.status();

  // Packing cannot be interrupted, but the work can be left undone: nobody will look at the result.
  const auto parallel = [&](int64_t n, const std::function<void(int64_t)>& work) {
    pool.Run(static_cast<int32_t>(n), [&](Shard shard) {
      if (!stop.load()) work(shard.index);
    });
  };
  Progress progress(clock);
  auto weights = engine::LoadWeights(*files->tensors, spec, parallel, [&](int64_t done, int64_t total) { progress(done, total); });
  if (stop.load()) return absl::CancelledError("stopped while loading");
  if (!weights.ok()) return weights.status();

  LoadedModel model{.served = Describe(config, spec, *options), .options = *options, .stepper = nullptr};
  model.served.weight_bytes = weights->memory.bytes().value();
  model.served.tokenizer = *std::move(tokenizer);
  model.served.chat = *std::move(chat);
  std::optional<engine::ModelGeometry> geometry;
  if (options->kv.mode.coded) {
    const engine::CalibratedModel calibrated = {.spec = spec, .weights = *weights, .tokenizer = *model.served.tokenizer, .pool = pool};
    auto obtained = ObtainGeometry(config, options->context_max, calibrated, clock, stop);
    if (!obtained.ok()) return obtained.status();
    geometry = *std::move(obtained);
  }
  const PageCount workspace_pages = engine::PrefillWorkspace::PagesFor(options->kv.heads(), options->workspace_tokens);
  if (device->on_cuda()) {
    Progress copied(clock);
    auto stepper = engine::MakeCudaStepper(std::move(spec), *weights, pool,
                                           {.device = device->cuda,
                                            .pages = options->pool_pages,
                                            .least_pages = LeastPool(options->kv),
                                            .pool_taken = &model.options.pool_pages,
                                            .geometry = std::move(geometry),
                                            .workspace_pages = workspace_pages,
                                            .priced = options->kv.mode.priced,
                                            .sequences = options->running_max,
                                            .context_max = options->context_max,
                                            .progress = [&](int64_t done, int64_t total) { copied(done, total); },
                                            .clock = &clock});
    if (!stepper.ok()) return stepper.status();
    model.stepper = *std::move(stepper);
    return model;
  }
  const auto activations = config.activations == "f32" ? kernels::ActivationType::kF32 : kernels::ActivationType::kInt8;
  auto stepper = engine::MakeCpuStepper(std::move(spec), *std::move(weights), pool,
                                        {.activations = activations,
                                         .pages = options->pool_pages,
                                         .geometry = std::move(geometry),
                                         .workspace_pages = workspace_pages,
                                         .clock = &clock});
  if (!stepper.ok()) return stepper.status();
  model.stepper = *std::move(stepper);
  return model;
}

}  // namespace spherical::server
