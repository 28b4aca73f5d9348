// gantry-plugin-host: one plugin in a process of its own, for isolation = "process". It has nothing but two
// sockets to the engine: 3 brings a channel for each call that runs at once, 4 carries what the plugin asks
// of its host. It needs the engine's rights (drivers mount and make links), so what it gives up is its
// life: it dies with the engine and by any fault of the plugin.
//   gantry-plugin-host ENGINE_PID NAME      with those descriptors; nobody starts it by hand
#include "core/plugin/isolated/arguments.h"
#include "core/plugin/proxy.h"
#include "core/plugin/wire.h"

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <linux/close_range.h>
#include <map>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace gantry::isolated {
namespace {

/// The host services, asked over socket 4.
class Services {
  public:
    explicit Services(wire::Channel channel) : channel_(std::move(channel)) {
        host_.struct_size = sizeof host_;
        host_.abi_major = GANTRY_ABI_MAJOR;
        host_.abi_minor = GANTRY_ABI_MINOR;
        host_.ctx = this;
        host_.log = [](void *ctx, int32_t level, const char *message) {
            if (message) of(ctx).tell(wire::Kind::kLog, level, std::string(message, strnlen(message, 8192)));
        };
        host_.kv_get = [](void *ctx, const gantry_call *call, const char *key, const gantry_byte_sink *sink) {
            return detail::guard(call, [&] {
                const std::string reply =
                    of(ctx).ask(wire::Kind::kKvGet, [&](auto &out) { out(limited(key)); });
                wire::Decoder in(reply);
                const std::string_view value = in.view(wire::kFrameLimit);
                detail::check_sink(sink->write(sink->ctx, value.data(), value.size()));
            });
        };
        host_.kv_apply = [](void *ctx, const gantry_call *call, const gantry_kv_write *writes,
                            uint32_t count) {
            return detail::guard(call, [&] {
                of(ctx).ask(wire::Kind::kKvApply, [&](auto &out) {
                    out(count);
                    for (uint32_t i = 0; i < count; ++i) {
                        const gantry_kv_write &w = writes[i];
                        out(limited(w.key));
                        out(w.value != nullptr);
                        if (w.value) out(bytes(w.value, w.value_size));
                        const bool absent = w.expect && w.expect_size == SIZE_MAX;
                        out(!w.expect ? 0u : absent ? 1u : 2u);
                        if (w.expect) out(absent ? std::string_view() : bytes(w.expect, w.expect_size));
                    }
                });
            });
        };
        host_.kv_list = [](void *ctx, const gantry_call *call, const char *prefix,
                           const gantry_string_sink *sink) {
            return detail::guard(call, [&] {
                const std::string reply =
                    of(ctx).ask(wire::Kind::kKvList, [&](auto &out) { out(limited(prefix)); });
                wire::Decoder in(reply);
                for (const std::string &key : in.get<std::vector<std::string>>())
                    detail::check_sink(sink->add(sink->ctx, key.c_str()));
            });
        };
        // Here and not in the engine: what it starts ends with this process.
        host_.run = [](void *, const gantry_call *call, const char *const *argv, const void *input,
                       size_t input_size, const gantry_byte_sink *out, const gantry_byte_sink *err,
                       int32_t *exit_code) {
            return run_program(call, argv, input, input_size, out, err, exit_code);
        };
        host_.count = [](void *ctx, const char *name, int64_t delta) {
            if (name) of(ctx).tell(wire::Kind::kCount, limited(name), delta);
        };
        host_.gauge = [](void *ctx, const char *name, int64_t value) {
            if (name) of(ctx).tell(wire::Kind::kGauge, limited(name), value);
        };
        host_.blob_open = [](void *ctx, const gantry_call *call, const char *digest, int32_t *fd,
                             uint64_t *size) {
            return detail::guard(call, [&] {
                *fd = -1;
                UniqueFd blob;
                const std::string reply = of(ctx).ask(
                    wire::Kind::kBlobOpen, [&](auto &out) { out(limited(digest)); }, &blob);
                wire::Decoder in(reply);
                in(*size);
                if (!blob) throw wire::Decoder::torn();
                *fd = blob.release();
            });
        };
    }
    const gantry_host *raw() const noexcept { return &host_; }

  private:
    static Services &of(void *ctx) { return *static_cast<Services *>(ctx); }
    static std::string_view limited(const char *text) {
        return text ? std::string_view(text, strnlen(text, 1024)) : std::string_view();
    }
    static std::string_view bytes(const void *data, size_t size) {
        return {static_cast<const char *>(data), size};
    }
    template <typename... T> void tell(wire::Kind kind, const T &...values) noexcept {
        try {
            wire::Encoder out;
            (out(values), ...);
            const std::lock_guard lock(mutex_);
            channel_.send(kind, out.out, 0);
        } catch (...) { // the engine has ended, and so does this process
        }
    }
    template <typename F> std::string ask(wire::Kind kind, F &&fill, UniqueFd *fd = nullptr) {
        wire::Encoder out;
        fill(out);
        const std::lock_guard lock(mutex_);
        channel_.send(kind, out.out, 0);
        wire::Frame reply = channel_.receive(0);
        if (reply.kind == wire::Kind::kFailure) {
            wire::Decoder in(reply.body);
            throw wire::decode_error(in);
        }
        if (fd && reply.fds.size() == 1) *fd = std::move(reply.fds[0]);
        return std::move(reply.body);
    }

    wire::Channel channel_;
    std::mutex mutex_; // a question and its answer stay together
    gantry_host host_{};
};

/// The plugin once it is started.
struct Plugin {
    explicit Plugin(Services &services) : services(services) {}
    Services &services;
    std::shared_ptr<LoadedPlugin> loaded;
    std::shared_ptr<StorageDriver> storage;
    std::shared_ptr<NetworkDriver> network;
    std::shared_ptr<RegistryDriver> registry;

    std::mutex mutex;
    std::condition_variable changed;
    int busy = 0;

    bool start(const Call &call, wire::Decoder &in);
    void end();
};

bool Plugin::start(const Call &call, wire::Decoder &in) {
    const auto file = in.get<std::string>(), pin = in.get<std::string>();
    DriverStart how;
    for (std::string *text : {&how.root, &how.run, &how.libexec, &how.engine_id})
        in(*text);
    how.config = wire::decode_value(in);
    in.end();
    const ElfFacts facts = judge_plugin_file(file, pin); // again: the file may have changed since
    const struct gantry_plugin_entry &entry = load_entry(file);
    judge_plugin_entry(entry, facts, file);
    loaded = std::make_shared<LoadedPlugin>(entry, file);
    loaded->init(services.raw(), call);
    auto instance = std::make_shared<Instance>(loaded, how, call);
    switch (entry.kind) {
    case GANTRY_KIND_STORAGE: storage = make_storage_proxy(std::move(instance)); break;
    case GANTRY_KIND_NETWORK: network = make_network_proxy(std::move(instance)); break;
    case GANTRY_KIND_REGISTRY: registry = make_registry_proxy(std::move(instance)); break;
    }
    return storage && storage->has_changes();
}

void Plugin::end() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return busy == 0; });
    storage.reset();
    network.reset();
    registry.reset();
    loaded.reset();
}

struct Request {
    Service &service;
    wire::Decoder in;
    std::vector<UniqueFd> fds;
    wire::Encoder result;
};

template <typename Method> struct Signature;
template <typename D, typename R, typename... A> struct Signature<R (D::*)(const Call &, A...)> {
    using Driver = D;
    using Result = R;
    /// std::tuple builds its elements in no stated order; the arguments come in theirs.
    template <auto method, typename... Built>
    static void go(D &driver, const Call &call, Request &r, Built &...built) {
        if constexpr (sizeof...(Built) < sizeof...(A)) {
            using Next = std::decay_t<std::tuple_element_t<sizeof...(Built), std::tuple<A...>>>;
            Rebuilt<Next> next(r.service, r.in, r.fds);
            go<method>(driver, call, r, built..., next);
        } else {
            r.in.end();
            if constexpr (std::is_void_v<R>)
                (driver.*method)(call, built.get()...);
            else
                r.result((driver.*method)(call, built.get()...));
            (built.finish(), ...);
        }
    }
};

template <auto method> void serve(Plugin &plugin, const Call &call, Request &r) {
    using S = Signature<decltype(method)>;
    using D = typename S::Driver;
    D *driver = nullptr;
    if constexpr (std::is_same_v<D, StorageDriver>)
        driver = plugin.storage.get();
    else if constexpr (std::is_same_v<D, NetworkDriver>)
        driver = plugin.network.get();
    else
        driver = plugin.registry.get();
    if (!driver) throw Error(ErrorClass::kFailedPrecondition, "call driver: there is none of this kind");
    S::template go<method>(*driver, call, r);
}

using Handler = void (*)(Plugin &, const Call &, Request &);
Handler handler_of(const std::string &operation, bool storage) {
    static const std::map<std::string, Handler> handlers{
        {"create", serve<&StorageDriver::create>},
        {"mounts", serve<&StorageDriver::mounts>},
        {"commit", serve<&StorageDriver::commit>},
        {"remove", serve<&StorageDriver::remove>},
        {"usage", serve<&StorageDriver::usage>},
        {"list", serve<&StorageDriver::list>},
        {"changes", serve<&StorageDriver::changes>},
        {"create_network", serve<&NetworkDriver::create_network>},
        {"remove_network", serve<&NetworkDriver::remove_network>},
        {"attach", serve<&NetworkDriver::attach>},
        {"detach", serve<&NetworkDriver::detach>},
        {"publish", serve<&NetworkDriver::publish>},
        {"restore", serve<&NetworkDriver::restore>},
        {"stats", serve<&NetworkDriver::stats>},
        {"clean", serve<&NetworkDriver::clean>},
        {"handles", serve<&RegistryDriver::handles>},
        {"resolve", serve<&RegistryDriver::resolve>},
        {"fetch", serve<&RegistryDriver::fetch>},
        {"push", serve<&RegistryDriver::push>},
        {"tags", serve<&RegistryDriver::tags>},
        {"search", serve<&RegistryDriver::search>},
        {"explain", serve<&RegistryDriver::explain>},
        {"login", serve<&RegistryDriver::login>},
        {"referrers", serve<&RegistryDriver::referrers>},
        {"status", serve<&RegistryDriver::status>},
        {"test", serve<&RegistryDriver::test>}};
    if (operation == "caps") return storage ? serve<&StorageDriver::caps> : serve<&NetworkDriver::caps>;
    const auto found = handlers.find(operation);
    if (found == handlers.end())
        throw Error(ErrorClass::kInternal, "call driver: there is no operation " + operation);
    return found->second;
}

void answer(Plugin &plugin, Service &service, wire::Frame frame) {
    Request r{service, wire::Decoder(frame.body), std::move(frame.fds), {}};
    const auto operation = r.in.get<std::string>();
    gantry_error_sink errors{};
    errors.struct_size = sizeof errors;
    errors.set = [](void *, gantry_status, int32_t, const char *, const char *) {}; // the proxies have theirs
    gantry_call raw{};
    raw.struct_size = sizeof raw;
    raw.error = &errors;
    raw.ctx = &service;
    raw.cancel_fd = -1;
    r.in(raw.deadline_ns);
    UniqueFd cancel;
    if (r.in.get<bool>()) {
        if (r.fds.empty()) throw wire::Decoder::torn();
        cancel = std::move(r.fds.front());
        r.fds.erase(r.fds.begin());
        raw.cancel_fd = cancel.get();
    }
    if (r.in.get<bool>())
        raw.progress = [](void *ctx, const char *what, uint64_t done, uint64_t total) {
            try {
                wire::Encoder out;
                out(std::string_view(what ? what : ""));
                out(done);
                out(total);
                static_cast<Service *>(ctx)->tell(wire::Kind::kProgress, out.out);
            } catch (...) { // advisory
            }
        };
    raw.log = [](void *ctx, int32_t level, const char *message) {
        try {
            wire::Encoder out;
            out(level);
            out(std::string_view(message ? message : "", message ? strnlen(message, 8192) : 0));
            static_cast<Service *>(ctx)->tell(wire::Kind::kLog, out.out);
        } catch (...) { // a lost line
        }
    };
    const auto subject = r.in.get<std::string>();
    const auto labels = r.in.get<std::vector<std::pair<std::string, std::string>>>();
    std::vector<gantry_label> raw_labels;
    for (const auto &[key, value] : labels)
        raw_labels.push_back({key.c_str(), value.c_str()});
    raw.subject = subject.c_str();
    raw.labels = raw_labels.data();
    raw.label_count = static_cast<uint32_t>(raw_labels.size());
    const Call call(&raw);
    if (operation == "start")
        r.result(plugin.start(call, r.in));
    else
        handler_of(operation, plugin.storage != nullptr)(plugin, call, r);
    service.tell(wire::Kind::kResult, r.result.out);
}

/// One channel, one call after another, until the engine closes it.
void attend(Plugin &plugin, wire::Channel channel) {
    Service service(std::move(channel));
    try {
        for (;;) {
            wire::Frame frame = service.channel().receive(0);
            if (frame.kind != wire::Kind::kRequest) return;
            {
                const std::lock_guard lock(plugin.mutex);
                ++plugin.busy;
            }
            std::string failure;
            wire::Encoder out;
            try {
                answer(plugin, service, std::move(frame));
            } catch (const Error &e) {
                wire::encode(out, e);
            } catch (const std::exception &e) {
                wire::encode(out, Error(ErrorClass::kInternal, e.what()));
            }
            {
                const std::lock_guard lock(plugin.mutex);
                --plugin.busy;
            }
            plugin.changed.notify_all();
            if (!out.out.empty()) service.tell(wire::Kind::kFailure, out.out);
        }
    } catch (const std::exception &) { // closed
    }
}

int run(int argc, char **argv) {
    if (argc != 3) {
        fputs("gantry-plugin-host is started by gantryd\n", stderr);
        return 2;
    }
    // The engine may have ended before the request was in force.
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != atoi(argv[1])) return 1;
    ::close_range(5, ~0u, 0);
    for (const int fd : {3, 4})
        if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return 2;
    ::signal(SIGPIPE, SIG_IGN);
    ::prctl(PR_SET_NAME, argv[2], 0, 0, 0);
    // Never destroyed: threads of calls end with the process.
    auto &services = *new Services(wire::Channel(UniqueFd(4)));
    auto &plugin = *new Plugin(services);
    wire::Channel control(UniqueFd(3));
    try {
        for (;;) {
            wire::Frame frame = control.receive(0);
            if (frame.fds.size() != 1) continue;
            std::thread([&plugin, channel = wire::Channel(std::move(frame.fds[0]))]() mutable {
                attend(plugin, std::move(channel));
            }).detach();
        }
    } catch (const std::exception &) { // closed: the engine wants it to end
    }
    plugin.end();
    ::_exit(0);
}

} // namespace
} // namespace gantry::isolated

int main(int argc, char **argv) { return gantry::isolated::run(argc, argv); }
