// Host services inside a plugin. The host's C functions report failures through the call they get, so
// each use makes a call of its own: the error becomes an exception here and not a half-told one there.
#include <gantry/plugin.hpp>

#include <atomic>

namespace gantry {
namespace {

std::atomic<const gantry_host *> g_host{nullptr};
std::atomic<OnInit::Hook> g_init_hook{nullptr};
std::atomic<OnProbe::Hook> g_probe_hook{nullptr};
constexpr size_t kOutputLimit = 1u << 20;

const gantry_host &usable(const gantry_host *host, const char *doing) {
    if (!host)
        throw Error(ErrorClass::kFailedPrecondition,
                    std::string(doing) + ": the plugin was not initialised by a host");
    return *host;
}
[[noreturn]] void unsupported(const char *doing) {
    throw Error(ErrorClass::kUnsupported, std::string(doing) + ": this host does not offer it");
}

gantry_byte_sink string_sink(std::string *into) {
    gantry_byte_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = into;
    sink.write = [](void *ctx, const void *data, size_t size) -> gantry_status {
        return detail::guard(nullptr, [&] {
            auto &out = *static_cast<std::string *>(ctx);
            // Beyond the limit output is dropped, not refused: a talkative helper is no failure.
            if (out.size() < kOutputLimit)
                out.append(static_cast<const char *>(data), std::min(size, kOutputLimit - out.size()));
        });
    };
    return sink;
}

} // namespace

OnInit::OnInit(Hook hook) noexcept { g_init_hook = hook; }
OnProbe::OnProbe(Hook hook) noexcept { g_probe_hook = hook; }

Host plugin_host() noexcept { return Host(g_host.load()); }

void Host::log(int32_t level, const std::string &message) const noexcept {
    if (GANTRY_HAS(raw_, log) && raw_->log) raw_->log(raw_->ctx, level, message.c_str());
}

std::optional<std::string> Host::get(const Call &call, const std::string &key) const {
    const gantry_host &host = usable(raw_, "read key");
    if (!GANTRY_HAS(raw_, kv_get) || !host.kv_get) unsupported("read key");
    std::string value;
    const gantry_byte_sink sink = string_sink(&value);
    detail::SubCall sub(call.raw());
    const gantry_status status = host.kv_get(host.ctx, sub.raw(), key.c_str(), &sink);
    if (status == GANTRY_NOT_FOUND) return std::nullopt;
    sub.check(status, "read key " + key);
    return value;
}

void Host::apply(const Call &call, const std::vector<Write> &writes) const {
    const gantry_host &host = usable(raw_, "write keys");
    if (!GANTRY_HAS(raw_, kv_apply) || !host.kv_apply) unsupported("write keys");
    std::vector<gantry_kv_write> raw;
    raw.reserve(writes.size());
    for (const Write &w : writes) {
        gantry_kv_write r{};
        r.key = w.key.c_str();
        if (w.value) {
            r.value = w.value->data();
            r.value_size = w.value->size();
        }
        if (w.expect != Write::Expect::kNothing) {
            r.expect = w.expected.data();
            r.expect_size = w.expect == Write::Expect::kAbsent ? SIZE_MAX : w.expected.size();
        }
        raw.push_back(r);
    }
    detail::SubCall sub(call.raw());
    sub.check(host.kv_apply(host.ctx, sub.raw(), raw.data(), static_cast<uint32_t>(raw.size())),
              "write keys");
}

std::vector<std::string> Host::list(const Call &call, const std::string &prefix) const {
    const gantry_host &host = usable(raw_, "list keys");
    if (!GANTRY_HAS(raw_, kv_list) || !host.kv_list) unsupported("list keys");
    std::vector<std::string> keys;
    gantry_string_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &keys;
    sink.add = [](void *ctx, const char *value) -> gantry_status {
        return detail::guard(nullptr,
                             [&] { static_cast<std::vector<std::string> *>(ctx)->emplace_back(value); });
    };
    detail::SubCall sub(call.raw());
    sub.check(host.kv_list(host.ctx, sub.raw(), prefix.c_str(), &sink), "list keys " + prefix);
    return keys;
}

Host::Output Host::run(const Call &call, const std::vector<std::string> &argv,
                       const std::string &input) const {
    const gantry_host &host = usable(raw_, "run program");
    if (!GANTRY_HAS(raw_, run) || !host.run) unsupported("run program");
    std::vector<const char *> raw;
    for (const std::string &arg : argv)
        raw.push_back(arg.c_str());
    raw.push_back(nullptr);
    Output output;
    const gantry_byte_sink out = string_sink(&output.out), err = string_sink(&output.err);
    int32_t code = 0;
    detail::SubCall sub(call.raw());
    sub.check(host.run(host.ctx, sub.raw(), raw.data(), input.empty() ? nullptr : input.data(), input.size(),
                       &out, &err, &code),
              "run " + (argv.empty() ? std::string("nothing") : argv[0]));
    output.exit_code = code;
    return output;
}

UniqueFd Host::open_blob(const Call &call, const std::string &digest, uint64_t &size) const {
    const gantry_host &host = usable(raw_, "open blob");
    if (!GANTRY_HAS(raw_, blob_open) || !host.blob_open) unsupported("open blob");
    int32_t fd = -1;
    detail::SubCall sub(call.raw());
    const gantry_status status = host.blob_open(host.ctx, sub.raw(), digest.c_str(), &fd, &size);
    UniqueFd out(fd);
    sub.check(status, "open blob " + digest);
    return out;
}

void Host::count(const char *name, int64_t delta) const noexcept {
    if (GANTRY_HAS(raw_, count) && raw_->count) raw_->count(raw_->ctx, name, delta);
}
void Host::gauge(const char *name, int64_t value) const noexcept {
    if (GANTRY_HAS(raw_, gauge) && raw_->gauge) raw_->gauge(raw_->ctx, name, value);
}

namespace detail {

void set_plugin_host(const gantry_host *host) noexcept { g_host = host; }

gantry_status init(const gantry_host *host, const gantry_call *call) noexcept {
    set_plugin_host(host);
    const gantry_status status = guard(call, [&] {
        if (const OnInit::Hook hook = g_init_hook.load()) hook(Host(host), Call(call));
    });
    if (status != GANTRY_OK) set_plugin_host(nullptr);
    return status;
}

void deinit() noexcept { set_plugin_host(nullptr); }

namespace {

gantry_status probe(const gantry_call *call, const gantry_environment *env, const gantry_value *config) {
    return guard(call, [&] {
        const OnProbe::Hook hook = g_probe_hook.load();
        if (!hook) return;
        const Config options(config);
        hook(Environment{env->root, env->run, env->libexec, env->engine_id}, config ? &options : nullptr,
             Call(call));
    });
}

} // namespace

const gantry_probe_1 kProbeTable = {sizeof(gantry_probe_1), 0, probe};
const gantry_ability kAbilities[1] = {{GANTRY_PROBE_1, &kProbeTable}};

} // namespace detail
} // namespace gantry
