// Discovery, state of each plugin, and the choice of drivers. A bad file is a line in a list; a driver
// that the administrator named and that does not work is an error.
#include "core/plugin/host.h"

#include "core/base/files.h"
#include "core/base/log.h"
#include "core/plugin/engine_id.h"
#include "core/plugin/forward.h"
#include "core/plugin/load.h"
#include "core/plugin/process.h"
#include "core/plugin/registry_chain.h"
#include "core/store/db.h"
#include "core/store/moved_storage.h"

#include <algorithm>
#include <climits>
#include <filesystem>
#include <fmt/format.h>
#include <map>
#include <mutex>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {
namespace {

std::string default_libexec() {
    char path[PATH_MAX];
    const ssize_t size = ::readlink("/proc/self/exe", path, sizeof path - 1);
    const std::filesystem::path exe = size <= 0 ? "/usr/bin/gantry" : std::string(path, size);
    return (exe.parent_path() / "../lib/gantry").lexically_normal().string();
}

std::string reason_of(const std::exception &e) {
    const auto *error = dynamic_cast<const Error *>(&e);
    return error && !error->hint().empty() ? error->message() + " (" + error->hint() + ")" : e.what();
}

std::shared_ptr<StorageDriver> proxy_of(std::shared_ptr<Instance> i, StorageDriver *) {
    return make_storage_proxy(std::move(i));
}
std::shared_ptr<NetworkDriver> proxy_of(std::shared_ptr<Instance> i, NetworkDriver *) {
    return make_network_proxy(std::move(i));
}
std::shared_ptr<RegistryDriver> proxy_of(std::shared_ptr<Instance> i, RegistryDriver *) {
    return make_registry_proxy(std::move(i));
}
template <typename Calls> StorageForward<Calls> forward_type(StorageDriver *, Calls);
template <typename Calls> NetworkForward<Calls> forward_type(NetworkDriver *, Calls);
template <typename Calls> RegistryForward<Calls> forward_type(RegistryDriver *, Calls);

template <typename Driver, typename Calls> std::shared_ptr<Driver> forward_by(Calls calls) {
    using Type = decltype(forward_type(static_cast<Driver *>(nullptr), calls));
    return std::make_shared<Type>(std::move(calls));
}

/// The driver as the core sees it: the plugin's table behind the transport that its table names.
template <typename Driver>
std::shared_ptr<Driver> forward(std::shared_ptr<Instance> instance, const DriverHosting &hosting) {
    const auto record = instance->plugin->record;
    auto proxy = proxy_of(std::move(instance), static_cast<Driver *>(nullptr));
    if (hosting.isolation == DriverHosting::Isolation::kNone)
        return forward_by<Driver>(DirectCalls<Driver>(std::move(proxy), hosting));
    return forward_by<Driver>(ThreadCalls<Driver>(std::move(proxy), record, hosting));
}

} // namespace

struct PluginHost::Impl {
    struct Found {
        PluginInfo info;
        std::shared_ptr<LoadedPlugin> plugin; // null when refused
        int64_t probed_ns = 0;
        std::weak_ptr<PluginProcess> process;
        bool tried = false; // what a start has shown is better known than what a probe would say
    };
    /// The one driver of a kind that is in use. `opening` is held while it is made: init and create may
    /// take their whole deadline, and listings go on meanwhile.
    template <typename Driver> struct InUse {
        std::mutex opening;
        std::shared_ptr<Driver> driver; // with `name` guarded by Impl::mutex
        std::string name;
    };

    Impl(const EngineSettings &s, Db *d)
        : settings(s), db(d), root(s.engine().root), run(s.engine().run),
          libexec(s.engine().libexec.empty() ? default_libexec() : s.engine().libexec) {}
    ~Impl() {
        storage.driver.reset();
        network.driver.reset();
        registry.driver.reset();
        for (const Found &f : found)
            if (f.plugin)
                if (const auto services = f.plugin->services()) services->close();
    }

    const EngineSettings &settings;
    Db *db;
    const std::string root, run, libexec;
    const std::shared_ptr<LentBlobs> blobs = std::make_shared<LentBlobs>();
    std::vector<Found> found; // fixed after discover() but for info, which the mutex guards
    mutable std::mutex mutex;
    std::mutex probing;
    InUse<StorageDriver> storage;
    std::map<std::string, std::shared_ptr<StorageDriver>> beside; // guarded by storage.opening
    InUse<NetworkDriver> network;
    InUse<RegistryDriver> registry;

    std::string pin_of(const std::string &path) const {
        const std::string file = std::filesystem::path(path).filename().string();
        for (const PluginPin &pin : settings.pins())
            if (pin.file == file || pin.file == path) return pin.sha256;
        return {};
    }

    Found examine(const std::string &path) const {
        Found f;
        f.info.file = path;
        const ElfFacts facts = judge_plugin_file(path, pin_of(path));
        f.info.kind = static_cast<gantry_kind>(facts.kind);
        f.info.abi_major = facts.abi_major;
        f.info.abi_minor = facts.abi_minor;
        const struct gantry_plugin_entry &entry = load_entry(path);
        judge_plugin_entry(entry, facts, path);
        f.info.name = entry.name;
        f.info.version = entry.version;
        f.info.description = entry.description;
        f.info.homepage = entry.homepage;
        for (uint32_t i = 0; i < entry.ability_count; ++i)
            f.info.abilities.emplace_back(entry.abilities[i].id);
        f.info.options = entry.options;
        f.info.option_count = entry.option_count;
        f.plugin = std::make_shared<LoadedPlugin>(entry, path);
        return f;
    }

    void discover() {
        for (const std::string &dir : settings.engine().plugin_dirs) {
            std::vector<std::string> names = list_directory(dir);
            std::sort(names.begin(), names.end());
            for (const std::string &name : names) {
                if (!name.ends_with(".so") || name[0] == '.') continue;
                const std::string path = dir + "/" + name;
                Found f;
                try {
                    f = examine(path);
                    if (const Found *other = find(f.info.kind, f.info.name))
                        throw Error(ErrorClass::kAlreadyExists,
                                    fmt::format("load plugin {}: {} driver {} is already offered by {}", path,
                                                kind_name(f.info.kind), f.info.name, other->info.file));
                } catch (const std::exception &e) {
                    f.plugin.reset();
                    f.info.file = path;
                    if (f.info.name.empty()) f.info.name = name.substr(0, name.size() - 3);
                    f.info.options = nullptr;
                    f.info.option_count = 0;
                    f.info.state = PluginState::kFailed;
                    f.info.reason = reason_of(e);
                    log_warn("{}", f.info.reason);
                }
                found.push_back(std::move(f));
            }
        }
        // A pin that matches no file protects nothing; most often it is a misspelt name.
        for (const PluginPin &pin : settings.pins())
            if (std::none_of(found.begin(), found.end(), [&](const Found &f) {
                    return f.info.file == pin.file ||
                           std::filesystem::path(f.info.file).filename() == pin.file;
                }))
                log_warn("plugin {} is pinned, but there is no such file in the plugin directories",
                         pin.file);
    }

    const Found *find(gantry_kind kind, const std::string &name) const {
        for (const Found &f : found)
            if (f.plugin && f.info.kind == kind && f.info.name == name) return &f;
        return nullptr;
    }
    Found &need(gantry_kind kind, const std::string &name) {
        for (Found &f : found)
            if (f.plugin && f.info.kind == kind && f.info.name == name) return f;
        std::string offered, refused;
        for (const Found &f : found) {
            if (f.plugin && f.info.kind == kind) offered += (offered.empty() ? "" : ", ") + f.info.name;
            if (!f.plugin) refused += "; " + f.info.reason;
        }
        throw Error(ErrorClass::kFailedPrecondition,
                    fmt::format("use {} driver {}: no plugin offers it (found: {}){}", kind_name(kind), name,
                                offered.empty() ? "none" : offered, refused),
                    missing_driver_hint(kind, name));
    }

    DriverSchema schema_of(const Found &f) const {
        return {f.info.kind, f.info.name, f.info.options, f.info.option_count};
    }

    DriverStart start_of(const Found &f) const {
        const std::string part = std::string("/") + kind_name(f.info.kind) + "/" + f.info.name;
        return {root + part, run + part, libexec, db ? engine_id(*db) : "offline0",
                settings.driver_options(schema_of(f))};
    }

    /// load -> init -> create; a failure leaves nothing behind but the reason.
    template <typename Driver> std::shared_ptr<Driver> open(Found &f) {
        try {
            const DriverHosting hosting = settings.hosting(schema_of(f));
            DriverStart start = start_of(f);
            for (const std::string &dir : {start.root, start.run}) {
                make_directories(dir, 0700);
                if (::chmod(dir.c_str(), 0700) != 0) throw Error::from_errno(errno, "protect " + dir);
            }
            std::shared_ptr<Driver> driver;
            std::shared_ptr<PluginProcess> process;
            if (hosting.isolation == DriverHosting::Isolation::kProcess) {
                auto services = std::make_shared<PluginServices>(f.plugin->entry.name, db, blobs);
                f.plugin->set_services(services);
                process = std::make_shared<PluginProcess>(
                    ProcessSetup{libexec + "/gantry-plugin-host", f.info.file, pin_of(f.info.file),
                                 std::move(start), hosting, std::move(services), f.plugin->record});
                driver = forward_by<Driver>(ProcessCalls<Driver>(process));
                if constexpr (std::is_same_v<Driver, NetworkDriver>)
                    driver = make_remembering(driver, process);
            } else {
                driver =
                    forward<Driver>(start_instance(f.plugin, std::move(start), db, hosting, blobs), hosting);
            }
            const std::lock_guard lock(mutex);
            f.process = process;
            f.info.state = PluginState::kOk;
            f.info.in_use = true;
            f.info.isolation = hosting.isolation;
            f.info.reason.clear();
            return driver;
        } catch (const std::exception &e) {
            const auto *error = dynamic_cast<const Error *>(&e);
            const std::lock_guard lock(mutex);
            f.tried = true;
            f.info.state = error && error->error_class() == ErrorClass::kUnsupported ? PluginState::kSkipped
                                                                                     : PluginState::kFailed;
            f.info.reason = reason_of(e);
            throw;
        }
    }
    template <typename Driver> std::shared_ptr<Driver> named(gantry_kind kind, const std::string &name) {
        Found &f = need(kind, name);
        try {
            return open<Driver>(f);
        } catch (const Error &e) {
            throw e.with_context(fmt::format("use {} driver {}", kind_name(kind), name));
        }
    }

    /// Probes a driver that nobody has tried, at most twice a minute.
    void probe(Found &f) {
        {
            const std::lock_guard lock(mutex);
            const int64_t now = Call::now_ns();
            if (!f.plugin || f.tried || f.info.in_use || f.info.state == PluginState::kFailed ||
                f.plugin->starting || (f.probed_ns && now - f.probed_ns < 30ll * 1000000000))
                return;
            f.probed_ns = now;
        }
        DriverStart start;
        try {
            start = start_of(f);
        } catch (const Error &) { // its table is wrong; the probe is told so by the missing options
            const std::string part = std::string("/") + kind_name(f.info.kind) + "/" + f.info.name;
            start = {root + part, run + part, libexec, "offline0", nullptr};
        }
        const std::optional<Error> verdict = probe_plugin(f.plugin, std::move(start));
        const std::lock_guard lock(mutex);
        if (f.info.in_use) return;
        f.info.reason = verdict ? reason_of(*verdict) : "";
        if (!verdict)
            f.info.state = PluginState::kAvailable;
        else if (verdict->error_class() == ErrorClass::kUnsupported ||
                 verdict->error_class() == ErrorClass::kFailedPrecondition)
            f.info.state = PluginState::kSkipped;
        else
            f.info.state = PluginState::kFailed;
    }

    template <typename Driver>
    std::shared_ptr<Driver> use(InUse<Driver> &in_use, gantry_kind kind, const std::string &name) {
        const std::lock_guard opening(in_use.opening);
        if (!in_use.driver) {
            auto driver = named<Driver>(kind, name);
            const std::lock_guard lock(mutex);
            in_use.driver = std::move(driver);
            in_use.name = name;
        }
        return in_use.driver;
    }

    std::string marker() const { return root + "/storage/.driver"; }

    /// The driver that wrote this root, or "" when nothing of it is left. A move is recorded with the
    /// layers it moved; the file may be older.
    std::string written_by(const MovedStorage &moved) const {
        bool there = false;
        std::string name = read_file_if(marker(), there, 64);
        while (!name.empty() && name.back() == '\n')
            name.pop_back();
        if (!moved.to.empty()) name = moved.to;
        if (name.empty()) return {};
        if (!db) return name;
        int64_t layers = 0;
        db->transact([&](Db &d) {
            Statement s = d.prepare("SELECT count(*) FROM layer WHERE driver=?");
            s.bind(1, name);
            if (s.step()) layers = s.integer(0);
        });
        return layers > 0 ? name : std::string();
    }

    /// An empty root may go on with another driver than the last move's.
    void forget_older_move(const std::string &name) const {
        if (!db) return;
        if (const std::string to = moved_storage(*db).to; !to.empty() && to != name)
            db->transact([&](Db &t) { record_move(t, {"", name}); });
    }

    std::shared_ptr<StorageDriver> choose_storage(std::string &name) {
        const StorageConfig &config = settings.storage();
        const MovedStorage moved = db ? moved_storage(*db) : MovedStorage{};
        std::string owner = written_by(moved);
        if (config.driver != "auto") {
            if (!owner.empty() && owner == moved.to && config.driver == moved.from) {
                // Whoever moved the layers meant it: one command, and the file may follow later.
                log_warn("storage.driver = \"{}\" in the configuration is out of date: the layers were moved "
                         "to {}, which is used; change it to \"{}\" or \"auto\"",
                         config.driver, owner, owner);
                name = owner;
                return named<StorageDriver>(GANTRY_KIND_STORAGE, name);
            }
            if (!owner.empty() && owner != config.driver)
                throw Error(
                    ErrorClass::kFailedPrecondition,
                    fmt::format("use storage driver {}: {} was written by driver {}", config.driver, root,
                                owner),
                    fmt::format("set storage.driver = \"{}\" (or \"auto\"), and to move its layers start the "
                                "engine and run: gantry system migrate --storage {}; or give engine.root "
                                "another directory",
                                owner, config.driver));
            name = config.driver;
            return named<StorageDriver>(GANTRY_KIND_STORAGE, name);
        }
        if (owner.empty()) owner = moved.to; // a choice that was made, even if no layer is left
        if (!owner.empty()) {                // auto never leaves existing layers behind
            name = owner;
            try {
                return named<StorageDriver>(GANTRY_KIND_STORAGE, name);
            } catch (const Error &e) {
                throw Error(
                    ErrorClass::kFailedPrecondition,
                    fmt::format("open {}: it was written by storage driver {}, which does not work: {}", root,
                                owner, e.message()),
                    (e.hint().empty() ? "make that driver work again" : e.hint()) +
                        "; or give engine.root another directory");
            }
        }
        std::string reasons;
        for (const std::string &candidate : config.prefer) {
            if (!find(GANTRY_KIND_STORAGE, candidate)) {
                reasons += fmt::format("; {}: no such plugin", candidate);
                continue;
            }
            try {
                auto made = open<StorageDriver>(need(GANTRY_KIND_STORAGE, candidate));
                name = candidate;
                return made;
            } catch (const Error &e) {
                // A wrong option is the administrator's mistake and not a property of the machine.
                if (e.error_class() == ErrorClass::kInvalidArgument) throw;
                log_info("storage driver {} passed over: {}", candidate, e.message());
                reasons += fmt::format("; {}: {}", candidate, e.message());
            }
        }
        throw Error(ErrorClass::kFailedPrecondition,
                    "choose storage driver: none of storage.prefer works" + reasons,
                    "gantry plugin ls shows what was found");
    }
};

PluginHost::PluginHost(const EngineSettings &settings, Db *db) : impl_(std::make_unique<Impl>(settings, db)) {
    impl_->discover();
}

PluginHost::~PluginHost() = default;

std::vector<PluginInfo> PluginHost::list() const {
    {
        const std::lock_guard one_at_a_time(impl_->probing);
        for (auto &f : impl_->found)
            impl_->probe(f);
    }
    std::lock_guard lock(impl_->mutex);
    std::vector<PluginInfo> out;
    for (const auto &f : impl_->found) {
        PluginInfo &info = out.emplace_back(f.info);
        if (!f.plugin) continue;
        info.calls_given_up = f.plugin->record->given_up.load();
        if (const auto process = f.process.lock()) {
            const PluginProcess::Status now = process->status();
            info.pid = now.pid;
            info.restarts = now.restarts;
            if (!now.up) {
                info.state = PluginState::kFailed;
                info.reason = "its process " + (now.reason.empty() ? "starts" : now.reason);
            }
        }
        if (f.plugin->record->hung()) {
            info.state = PluginState::kFailed;
            info.reason =
                fmt::format("hung: {} calls were given up and have not returned", info.calls_given_up);
        }
    }
    return out;
}

bool plugin_calls_hang() noexcept { return calls_under_way() > 0; }

PluginInfo PluginHost::inspect_file(const std::string &path) { return impl_->examine(path).info; }

std::vector<DriverSchema> PluginHost::schemas() const {
    std::lock_guard lock(impl_->mutex);
    std::vector<DriverSchema> out;
    for (const auto &f : impl_->found)
        if (f.plugin) out.push_back({f.info.kind, f.info.name, f.info.options, f.info.option_count});
    return out;
}

std::shared_ptr<StorageDriver> PluginHost::storage() {
    auto &use = impl_->storage;
    const std::lock_guard opening(use.opening);
    if (!use.driver) {
        std::string name;
        auto driver = impl_->choose_storage(name);
        write_file_atomically(impl_->marker(), name + "\n", 0600, true);
        impl_->forget_older_move(name);
        const std::lock_guard lock(impl_->mutex);
        use.driver = std::move(driver);
        use.name = name;
    }
    return use.driver;
}

std::shared_ptr<StorageDriver> PluginHost::storage_beside(const std::string &name) {
    const std::lock_guard opening(impl_->storage.opening);
    auto &driver = impl_->beside[name];
    if (!driver) driver = impl_->named<StorageDriver>(GANTRY_KIND_STORAGE, name);
    return driver;
}

std::shared_ptr<NetworkDriver> PluginHost::network() {
    return impl_->use(impl_->network, GANTRY_KIND_NETWORK, impl_->settings.network().driver);
}

std::shared_ptr<RegistryDriver> PluginHost::registry() {
    auto &use = impl_->registry;
    const std::lock_guard opening(use.opening);
    if (!use.driver) {
        std::vector<ChainLink> links;
        for (const std::string &name : impl_->settings.registry().drivers)
            links.push_back({name, impl_->named<RegistryDriver>(GANTRY_KIND_REGISTRY, name)});
        auto chain = make_registry_chain(std::move(links));
        const std::lock_guard lock(impl_->mutex);
        use.driver = std::move(chain);
    }
    return use.driver;
}

std::string PluginHost::storage_name() const {
    std::lock_guard lock(impl_->mutex);
    return impl_->storage.name;
}
std::string PluginHost::network_name() const {
    std::lock_guard lock(impl_->mutex);
    return impl_->network.name;
}
std::vector<std::string> PluginHost::registry_names() const {
    std::lock_guard lock(impl_->mutex);
    return impl_->registry.driver ? impl_->settings.registry().drivers : std::vector<std::string>{};
}

void PluginHost::lend_blobs(std::function<UniqueFd(const std::string &, uint64_t &)> open) {
    impl_->blobs->lend(std::move(open));
}

std::vector<PluginHost::Metric> PluginHost::metrics() const {
    std::vector<Metric> out;
    for (const auto &f : impl_->found)
        if (const auto services = f.plugin ? f.plugin->services() : nullptr)
            for (auto &[name, value] : services->metrics())
                out.push_back({name, value});
    return out;
}

} // namespace gantry
