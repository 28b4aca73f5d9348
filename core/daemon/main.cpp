// gantryd: puts the engine together, recovers what a former one left, serves until told to stop.
// Containers are children of their shims, so stopping (or killing) this process disturbs none of them.
#include "core/api/engine.h"
#include "core/api/gate.h"
#include "core/api/server.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/daemon/config_command.h"
#include "core/container/containers.h"
#include "core/doctor/doctor.h"
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/image/trust.h"
#include "core/layer/layers.h"
#include "core/layer/migrate.h"
#include "core/network/networks.h"
#include "core/plugin/engine_id.h"
#include "core/plugin/host.h"
#include "core/runtime/cgroups.h"
#include "core/runtime/runtime.h"
#include "core/store/db.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/program_options.hpp>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <malloc.h>
#include <sstream>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace gantry {
namespace {

namespace options = boost::program_options;

constexpr const char *kDefaultConfig = "/etc/gantry/gantry.toml";
constexpr int kGraceMs = 10'000;

struct Arguments {
    EngineSettings::Sources sources;
    bool check = false, clean = false;
};

/// The running server, for the signal handlers: stop() writes to an eventfd and nothing else.
api::Server *running_server = nullptr;

extern "C" void on_stop(int) {
    const int saved = errno;
    // While starting or cleaning there is nothing to drain, and every state on disk can be recovered.
    if (!running_server) _exit(128 + SIGTERM);
    running_server->stop();
    errno = saved;
}
volatile sig_atomic_t debug_log = 0;
LogLevel configured_level = LogLevel::kInfo;
extern "C" void on_hangup(int) {
    // SIGHUP toggles debug logging: the one thing that is wanted from an engine that must not restart.
    debug_log = !debug_log;
    set_log_level(debug_log ? LogLevel::kDebug : configured_level);
}
extern "C" void on_pipe(int) {}

void catch_signal(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
}

void install_signals() {
    catch_signal(SIGTERM, on_stop);
    catch_signal(SIGINT, on_stop);
    catch_signal(SIGHUP, on_hangup);
    // A handler, not SIG_IGN: handlers are reset by execve, so no shim or container inherits the change.
    catch_signal(SIGPIPE, on_pipe);
}

LogLevel log_level_of(const std::string &word) {
    if (word == "debug") return LogLevel::kDebug;
    if (word == "info") return LogLevel::kInfo;
    if (word == "warn") return LogLevel::kWarn;
    if (word == "error") return LogLevel::kError;
    throw Error(ErrorClass::kInvalidArgument, "set log level: unknown level \"" + word + "\"",
                "use debug, info, warn or error");
}

Arguments parse_arguments(int argc, char **argv) {
    options::options_description description("gantryd: the gantry engine. Stays in the foreground");
    std::vector<std::string> sets;
    std::string config, root, run, socket, level;
    description.add_options()("help,h", "this text")("version,v", "the version")(
        "config", options::value(&config), "TOML file (default /etc/gantry/gantry.toml, if it is there)")(
        "root", options::value(&root), "directory of the state")("run", options::value(&run),
                                                                 "directory of what a reboot forgets")(
        "socket,H", options::value(&socket), "path of the API socket, or unix://PATH")(
        "log-level", options::value(&level),
        "debug, info, warn, error")("set", options::value(&sets)->composing(),
                                    "KEY=VALUE in place of one TOML key, e.g. storage.driver=vfs")(
        "check", "judge the configuration, print the result and end")(
        "clean", "end every container of this engine, remove its links, firewall rules and cgroups, and end");
    options::variables_map values;
    try {
        options::store(options::parse_command_line(argc, argv, description), values);
        options::notify(values);
    } catch (const options::error &error) {
        throw Error(ErrorClass::kInvalidArgument, error.what(), "see gantryd --help");
    }
    if (values.count("help")) {
        std::ostringstream text;
        text << description;
        puts(text.str().c_str());
        exit(0);
    }
    if (values.count("version")) {
        puts("gantryd " GANTRY_VERSION);
        exit(0);
    }
    Arguments out;
    out.check = values.count("check");
    out.clean = values.count("clean");
    out.sources.file = config.empty() ? kDefaultConfig : config;
    out.sources.file_optional = config.empty();
    auto flag = [&](const char *key, const std::string &value) {
        if (!value.empty()) out.sources.flags.emplace_back(key, value);
    };
    flag("engine.root", root);
    flag("engine.run", run);
    flag("engine.socket", socket.starts_with("unix://") ? socket.substr(7) : socket);
    flag("engine.log_level", level);
    for (const std::string &set : sets) {
        const size_t equals = set.find('=');
        if (equals == set.npos || equals == 0)
            throw Error(ErrorClass::kInvalidArgument, "read --set " + set + ": KEY=VALUE is expected");
        out.sources.flags.emplace_back(set.substr(0, equals), set.substr(equals + 1));
    }
    return out;
}

std::string directory_of_binary() {
    char path[4096];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    const std::string text(path, n > 0 ? size_t(n) : 0);
    return text.substr(0, text.rfind('/'));
}

std::string find_shim(const EngineConfig &config) {
    const std::string path =
        config.shim.empty() ? directory_of_binary() + "/../lib/gantry/gantry-shim" : config.shim;
    char *resolved = realpath(path.c_str(), nullptr);
    const std::string out = resolved ? resolved : "";
    free(resolved);
    if (out.empty() || access(out.c_str(), X_OK) != 0)
        throw Error(ErrorClass::kFailedPrecondition, "find shim " + path + ": no such program",
                    "set engine.shim to the path of gantry-shim");
    return out;
}

/// sd_notify without libsystemd: one datagram.
void notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || (path[0] != '/' && path[0] != '@')) return;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const size_t size = strlen(path);
    if (size >= sizeof address.sun_path) return;
    memcpy(address.sun_path, path, size);
    if (path[0] == '@') address.sun_path[0] = 0;
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    (void)!sendto(fd.get(), state, strlen(state), MSG_NOSIGNAL, reinterpret_cast<sockaddr *>(&address),
                  socklen_t(offsetof(sockaddr_un, sun_path) + size));
}

void make_state_directories(const EngineConfig &config) {
    make_directories(config.root, 0711); // containers' mapped users must be able to pass
    make_directories(config.run, 0755);
}

int check(const EngineSettings &settings) {
    PluginHost plugins(settings, nullptr);
    for (const std::string &notice : settings.validate(plugins.schemas()))
        fprintf(stderr, "notice: %s\n", notice.c_str());
    const TrustPolicy readable(settings.trust());
    puts("configuration ok");
    return 0;
}

/// The cgroup above all sandboxes goes last, in every hierarchy; the kernel keeps one that is in use.
void remove_cgroup_parent(const std::string &parent) {
    for (const CgroupHierarchy &hierarchy : detect_cgroups().hierarchies)
        ::rmdir((hierarchy.mount_point + parent).c_str());
}

/// Undoes in the kernel whatever this engine made there; state on disk is kept.
int clean(const EngineSettings &settings) {
    const EngineConfig &config = settings.engine();
    make_state_directories(config);
    const UniqueFd lock = api::lock_engine(config.run);
    Db db(config.root + "/gantry.db");
    // First what needs no plugin: its package may be gone already.
    Runtime::make({find_shim(config), config.run, config.cgroup_parent, engine_id(db)})->sweep({});
    remove_cgroup_parent(config.cgroup_parent);
    PluginHost plugins(settings, &db);
    settings.validate(plugins.schemas());
    CallScope call;
    plugins.network()->clean(call);
    puts("clean");
    return 0;
}

/// What a move to another storage driver had not removed yet when the engine ended.
void end_moves(Db &db, PluginHost &plugins, const EngineConfig &config) {
    for (const std::string &name : drivers_moved_from(db, plugins.storage_name())) {
        try {
            log_info("remove what the move to {} left of storage driver {}", plugins.storage_name(), name);
            const CallScope call;
            remove_moved(db, {name, plugins.storage_beside(name)}, config.root + "/storage/" + name, call,
                         {});
        } catch (const Error &error) {
            log_warn("remove layers of storage driver {}: {}; the next start tries again", name,
                     error.message());
        }
    }
}

enum class End { kStop, kRestart };
char **program_arguments = nullptr;

/// The same process id, so that whoever supervises it sees no end. Descriptors close: all are CLOEXEC.
[[noreturn]] void restart_program() {
    fflush(nullptr);
    execv("/proc/self/exe", program_arguments);
    log_error("restart: {}", strerror(errno));
    _exit(1);
}

End serve(const std::shared_ptr<const EngineSettings> &settings) {
    const EngineConfig &config = settings->engine();
    const auto trust = std::make_shared<const TrustPolicy>(settings->trust());
    make_state_directories(config);
    const UniqueFd lock = api::lock_engine(config.run);
    // From here on no other engine works on this state.
    Db db(config.root + "/gantry.db");
    PluginHost plugins(*settings, &db);
    for (const std::string &notice : settings->validate(plugins.schemas()))
        log_info("{}", notice);

    const auto storage = plugins.storage();
    end_moves(db, plugins, config);
    const auto network = plugins.network();
    const auto registry = plugins.registry();
    Events events;
    ContentStore content(config.root, db, settings->storage().durable,
                         {settings->registry().partial_ttl_ns, settings->registry().partial_budget});
    // Ends before the store does, whatever a driver still does then.
    const struct BlobLoan {
        PluginHost &plugins;
        ~BlobLoan() { plugins.lend_blobs(nullptr); }
    } loan{plugins};
    Layers layers(db, storage, plugins.storage_name(), settings->storage().durable,
                  config.root + "/layer-records");
    Images images(db, content, layers, registry, events, settings->registry(),
                  settings->storage().retain_blobs, settings->storage().max_parallel_unpack, trust);
    Networks networks(db, network, plugins.network_name(), events);
    Volumes volumes(db, events, config.root);
    const std::string id = engine_id(db);
    const auto runtime = Runtime::make({find_shim(config), config.run, config.cgroup_parent, id});
    Containers containers({&db, &events, &images, &layers, &networks, &volumes, runtime.get(), &config,
                           plugins.storage_name()});

    // Bottom up, each step relying on the ones before. live_owners() adopts what still runs, so that no
    // address of it is taken for free; containers.recover() sweeps the sandboxes that nobody owns.
    const std::vector<std::string> live = containers.live_owners();
    content.recover();
    // From here on whatever has a blob's name is one.
    plugins.lend_blobs([&content](const std::string &digest, uint64_t &size) {
        UniqueFd blob = content.open(digest);
        struct stat st {};
        if (::fstat(blob.get(), &st) != 0) throw Error::from_errno(errno, "read blob " + digest);
        size = static_cast<uint64_t>(st.st_size);
        return blob;
    });
    layers.recover();
    images.recover();
    volumes.recover();
    networks.recover(live);
    api::Engine engine{settings, &plugins, &containers,   &images, &layers,  &networks,
                       &volumes, &events,  runtime.get(), id,      wall_ns()};
    api::Gate gate;
    std::atomic<bool> restart = false;
    engine.db = &db;
    engine.content = &content;
    engine.gate = &gate;
    engine.restart = [&restart] {
        restart = true;
        running_server->stop();
    };
    // The socket exists before containers with a restart policy do, but is served after recovery.
    api::ServerSettings listen{config.socket, config.socket_group, config.run};
    // A connection needs up to three descriptors; running out of them must not hit the containers' part.
    if (rlimit files{}; getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 6 < listen.max_connections)
        listen.max_connections = std::max(16u, unsigned(files.rlim_cur / 6));
    const bool activated = getenv("LISTEN_FDS") != nullptr; // taken away by the server
    api::Server server(listen, api::make_router(engine));
    running_server = &server;
    install_signals();
    containers.recover();

    malloc_trim(0);
    log_info("gantryd " GANTRY_VERSION " serves {} (storage {}, network {}, registry {})", server.address(),
             plugins.storage_name(), plugins.network_name(), fmt::join(plugins.registry_names(), ", "));
    notify("READY=1\n");
    const bool drained = server.run(kGraceMs);
    // systemd's socket cannot be taken along, and systemd starts us again at its next connection.
    const bool again = restart && !activated;
    notify(again ? "RELOADING=1\n" : "STOPPING=1\n");
    log_info("gantryd {}; containers go on running", again ? "restarts" : "stops");
    if (!drained) {
        // Requests are still at work on these objects: every state is recoverable, so leave them be.
        log_warn("some requests did not end in time");
        server.remove_socket();
        if (again) restart_program();
        _exit(0);
    }
    running_server = nullptr;
    return again ? End::kRestart : End::kStop;
}

} // namespace

int gantryd(int argc, char **argv) {
    // Arenas per thread would multiply the idle footprint of a process that mostly waits.
    mallopt(M_ARENA_MAX, 2);
    umask(022);
    try {
        const Arguments arguments = parse_arguments(argc, argv);
        const auto settings = EngineSettings::load(arguments.sources);
        configured_level = log_level_of(settings->engine().log_level);
        set_log_level(configured_level);
        if (arguments.check) return check(*settings);
        if (geteuid() != 0)
            throw Error(ErrorClass::kPermissionDenied, "start engine: it needs root",
                        "run it with sudo, or as a system service");
        install_signals();
        program_arguments = argv;
        int status = 0;
        if (arguments.clean)
            status = clean(*settings);
        else if (serve(settings) == End::kRestart)
            restart_program();
        if (plugin_calls_hang()) {
            fflush(nullptr);
            _exit(status);
        }
        return status;
    } catch (const Error &error) {
        fprintf(stderr, "gantryd: %s\n", error.message().c_str());
        if (!error.hint().empty()) fprintf(stderr, "hint: %s\n", error.hint().c_str());
    } catch (const std::exception &error) {
        fprintf(stderr, "gantryd: internal error: %s\n", error.what());
    }
    return 1;
}

} // namespace gantry

int main(int argc, char **argv) {
    // Hidden: how `gantry config` reaches the schemas of the plugins.
    if (argc > 1 && strcmp(argv[1], "--config-command") == 0)
        return gantry::run_config_command({argv + 2, argv + argc});
    if (argc > 1 && strcmp(argv[1], "--doctor") == 0) return gantry::doctor::run({argv + 2, argv + argc});
    return gantry::gantryd(argc, argv);
}
