// Starting a container. The state is written as running before the process is released: a killed engine
// finds the sandbox in the record and asks the shim what became of it.
#include "core/container/containers_impl.h"

#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {

namespace {

constexpr size_t kAccountLimit = 4u << 20;

bool plain(const NetworkRequest &n) {
    return n.ipv4.empty() && n.ipv6.empty() && n.mac.empty() && n.aliases.empty() && n.links.empty();
}
bool is_default_bridge(const std::string &name) {
    return name == "default" || name == "bridge" || name.empty();
}

/// The directory that takes a container's changes, when the driver's answer is one plain overlay.
std::string upper_of(const std::vector<Mount> &root) {
    if (root.size() != 1 || root[0].type != "overlay") return "";
    for (const auto &option : root[0].options) {
        if (option.starts_with("upperdir=")) return option.substr(9);
    }
    return "";
}

/// Nothing below etc in the changes: passwd and group are still the image's.
bool untouched(const std::string &upper) {
    struct stat info {};
    return !upper.empty() && ::lstat((upper + "/etc").c_str(), &info) != 0 && errno == ENOENT;
}

void write_plain(const std::string &path, const std::string &content) {
    // No fsync and no rename: rewritten at each start, and bound into the container by its inode.
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!fd) throw Error::from_errno(errno, "write " + path);
    write_all(fd.get(), content, path);
}

bool loopback(const std::string &address) { return address.starts_with("127.") || address == "::1"; }

} // namespace

bool Containers::Impl::default_shape(const ContainerConfig &c) const {
    if (!namespace_wish(c).is_default() || !c.pid_mode.empty() || joins_container(c.ipc_mode)) return false;
    if (!c.cgroup_parent.empty() || !runtime_path(c.runtime).empty()) return false;
    if (c.network_mode == "none") return true;
    if (!is_default_bridge(c.network_mode) || !c.mac_address.empty()) return false;
    return c.networks.empty() ||
           (c.networks.size() == 1 && is_default_bridge(c.networks[0].name) && plain(c.networks[0]));
}

std::vector<AttachRequest> Containers::Impl::network_wishes(const Record &record,
                                                            const ContainerConfig &c) const {
    std::vector<AttachRequest> out;
    const std::string &mode = c.network_mode;
    if (mode == "none" || mode == "host" || joins_container(mode)) return out;
    auto add = [&](const NetworkRequest &n) {
        AttachRequest request;
        request.network = is_default_bridge(n.name) ? "" : n.name;
        request.owner = record.id;
        request.ipv4 = n.ipv4;
        request.ipv6 = n.ipv6;
        request.mac = n.mac.empty() && out.empty() ? c.mac_address : n.mac;
        request.hostname = full_hostname(c, record.id);
        request.aliases = n.aliases;
        if (!request.network.empty()) {
            request.aliases.push_back(record.id.substr(0, 12));
        }
        out.push_back(std::move(request));
    };
    auto same = [](const std::string &a, const std::string &b) {
        return a == b || (is_default_bridge(a) && is_default_bridge(b));
    };
    // The network of NetworkMode first: it gives the default route and the published ports.
    bool have_mode = false;
    for (const auto &n : c.networks) {
        if (same(n.name, mode)) add(n), have_mode = true;
    }
    if (!have_mode && (c.networks.empty() || !is_default_bridge(mode))) {
        NetworkRequest n;
        n.name = mode;
        add(n);
    }
    for (const auto &n : c.networks) {
        if (!same(n.name, mode)) add(n);
    }
    return out;
}

UserIds Containers::Impl::resolve_container_user(Record &record, const ContainerConfig &c,
                                                 const std::vector<Mount> &root) {
    std::string passwd, group;
    const bool from_image = untouched(upper_of(root));
    bool cached = false;
    if (from_image) {
        std::lock_guard lock(mutex);
        auto it = account_cache.find(record.image_id);
        if ((cached = it != account_cache.end())) {
            const auto nul = it->second.find('\0');
            passwd = it->second.substr(0, nul);
            group = it->second.substr(nul + 1);
        }
    }
    if (!cached) {
        UniqueFd tree = mount_detached(parts.layers->mounts(record.layer, true));
        passwd = read_in_root(tree.get(), "/etc/passwd", kAccountLimit);
        group = read_in_root(tree.get(), "/etc/group", kAccountLimit);
        if (from_image && passwd.find('\0') == passwd.npos) {
            std::lock_guard lock(mutex);
            if (account_cache.size() > 256) account_cache.clear();
            std::string both = passwd;
            both += '\0';
            account_cache[record.image_id] = both + group;
        }
    }
    return resolve_user(c.user, c.group_add, passwd, group);
}

void Containers::Impl::write_files(Record &record, const ContainerConfig &c,
                                   const std::vector<Endpoint> &endpoints, SpecInput &input) {
    const std::string dir = directory(record.id);
    const std::string hostname = full_hostname(c, record.id);
    const std::string full = c.domainname.empty() ? hostname : hostname + "." + c.domainname + " " + hostname;
    std::string hosts;
    if (c.network_mode == "host") {
        bool found = false;
        hosts = read_file_if("/etc/hosts", found);
    } else {
        hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n"
                "ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
    }
    for (const auto &entry : c.extra_hosts) {
        const auto at = entry.find_first_of(":=");
        std::string address = entry.substr(at + 1);
        if (address.size() > 2 && address.front() == '[' && address.back() == ']') {
            address = address.substr(1, address.size() - 2);
        }
        if (address == "host-gateway") {
            if (endpoints.empty() || endpoints[0].info.ipv4_gateway.empty()) {
                throw Error(ErrorClass::kInvalidArgument, "unable to derive the IP value for host-gateway");
            }
            address = endpoints[0].info.ipv4_gateway;
        }
        hosts += address + "\t" + entry.substr(0, at) + "\n";
    }
    for (const auto &link : c.links) {
        const auto colon = link.find(':');
        auto other = const_cast<Impl *>(this)->find(link.substr(0, colon));
        std::lock_guard lock(other->mutex);
        if (!other->state.running || other->endpoints.empty()) {
            throw Error(ErrorClass::kFailedPrecondition,
                        "Cannot link to a non running container: /" + other->name);
        }
        std::string alias = colon == link.npos ? other->name : link.substr(colon + 1);
        alias = alias.substr(alias.rfind('/') + 1);
        hosts += other->endpoints[0].info.ipv4 + "\t" + alias + " " + other->id.substr(0, 12) + " " +
                 other->name + "\n";
    }
    for (const auto &endpoint : endpoints) {
        if (!endpoint.info.ipv4.empty()) hosts += endpoint.info.ipv4 + "\t" + full + "\n";
        if (!endpoint.info.ipv6.empty()) hosts += endpoint.info.ipv6 + "\t" + full + "\n";
    }

    bool found = false;
    std::string host_resolv = read_file_if("/etc/resolv.conf", found, 1u << 20), resolv;
    std::vector<std::string> servers = c.dns.empty() ? parts.config->dns : c.dns;
    std::erase(servers, "");
    std::vector<std::string> search = c.dns_search, options = c.dns_options;
    const bool keep_local = c.network_mode == "host";
    std::vector<std::string> host_servers;
    std::istringstream lines(host_resolv);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string key, value;
        if (!(words >> key)) continue;
        if (key == "nameserver" && words >> value && (keep_local || !loopback(value)))
            host_servers.push_back(value);
        if (key == "search" && c.dns_search.empty()) {
            search.clear();
            while (words >> value)
                search.push_back(value);
        }
        if (key == "options" && c.dns_options.empty()) {
            while (words >> value)
                options.push_back(value);
        }
    }
    if (servers.empty()) servers = host_servers;
    if (servers.empty() && !keep_local) servers = {"8.8.8.8", "8.8.4.4"};
    for (const auto &server : servers)
        resolv += "nameserver " + server + "\n";
    if (!search.empty() && !(search.size() == 1 && search[0] == ".")) {
        resolv += "search";
        for (const auto &domain : search)
            resolv += " " + domain;
        resolv += "\n";
    }
    if (!options.empty()) {
        resolv += "options";
        for (const auto &option : options)
            resolv += " " + option;
        resolv += "\n";
    }
    input.hosts_path = dir + "/hosts";
    input.resolv_conf_path = dir + "/resolv.conf";
    input.hostname_path = dir + "/hostname";
    write_plain(input.hosts_path, hosts);
    write_plain(input.resolv_conf_path, resolv);
    write_plain(input.hostname_path, hostname + "\n");
}

void Containers::Impl::start_locked(const RecordPtr &record) {
    std::shared_ptr<const ContainerConfig> config;
    SpecInput input;
    {
        std::unique_lock lock(record->mutex);
        record->changed.wait(lock, [&] { return !record->finishing; });
        config = record->config;
        input.mounts = record->mounts;
    }
    const ContainerConfig &c = *config;
    input.id = record->id;
    input.config = &c;
    std::vector<Endpoint> endpoints;
    std::unique_ptr<Sandbox> sandbox;
    std::string sandbox_id, exit_path;
    bool released = false;
    try {
        // Namespaces and files of other containers.
        auto join = [&](const std::string &mode, const char *what) -> RecordPtr {
            if (!joins_container(mode)) return nullptr;
            auto other = find(mode.substr(10));
            std::lock_guard lock(other->mutex);
            if (!other->state.running || !other->task) {
                throw Error(ErrorClass::kFailedPrecondition,
                            std::string("cannot join ") + what + " of a non running container: " + other->id);
            }
            return other;
        };
        auto namespace_path = [](const RecordPtr &other, const char *type) {
            std::lock_guard lock(other->mutex);
            if (!other->task)
                throw Error(ErrorClass::kFailedPrecondition, "container " + other->id + " has ended");
            return "/proc/" + std::to_string(other->task->pid()) + "/ns/" + type;
        };
        const RecordPtr net_of = join(c.network_mode, "network");
        if (net_of) input.network_path = namespace_path(net_of, "net");
        if (auto other = join(c.pid_mode, "PID")) input.pid_path = namespace_path(other, "pid");
        if (auto other = join(c.ipc_mode, "IPC")) {
            std::string theirs;
            {
                std::lock_guard lock(other->mutex);
                theirs = other->config->ipc_mode;
            }
            if (theirs != "shareable") {
                throw Error(ErrorClass::kFailedPrecondition,
                            "cannot join IPC of container " + other->id +
                                ": non-shareable IPC (hint: use "
                                "IpcMode:shareable for the donor container)",
                            "start it with --ipc shareable");
            }
            input.ipc_path = namespace_path(other, "ipc");
            input.shm_source = shm_path(other->id);
        }
        if (c.ipc_mode == "shareable") {
            mount_shm(record->id, c);
            input.shm_source = shm_path(record->id);
        }
        for (const auto &point : input.mounts) {
            if (point.type != "bind" || path_exists(point.source)) continue;
            const bool create = std::any_of(c.mounts.begin(), c.mounts.end(), [&](const auto &m) {
                return m.create_source && m.target == point.destination;
            });
            if (!create) {
                throw Error(ErrorClass::kInvalidArgument,
                            "invalid mount config for type \"bind\": bind source path does not exist: " +
                                point.source);
            }
            make_directories(point.source, 0755);
        }

        // Network and sandbox: a warm one has both.
        auto wishes = network_wishes(*record, c);
        if (default_shape(c)) {
            const bool lone = c.network_mode == "none";
            // One is kept for "none" as soon as somebody has asked for it.
            if (lone) lone_pool->start();
            if (auto warm = (lone ? lone_pool : pool)->take()) {
                sandbox = std::move(warm->sandbox);
                if (warm->endpoint) {
                    parts.networks->adopt(warm->endpoint->id, record->id);
                    warm->endpoint->owner = record->id;
                    endpoints.push_back(std::move(*warm->endpoint));
                }
            }
        }
        const std::string external = runtime_path(c.runtime);
        if (!sandbox) {
            sandbox = parts.runtime->prepare(new_id(), namespaces_of(input));
            for (auto &wish : wishes) {
                wish.netns_fd = sandbox->netns_fd();
                endpoints.push_back(parts.networks->attach(wish));
            }
        }
        sandbox_id = sandbox->id();
        if (!endpoints.empty()) {
            const auto wanted = port_bindings(c);
            // On the endpoint that has the default route, as the answers leave through that one.
            auto way_out = std::find_if(endpoints.begin(), endpoints.end(),
                                        [](const auto &e) { return !e.info.ipv4_gateway.empty(); });
            if (way_out == endpoints.end()) way_out = endpoints.begin();
            if (!wanted.empty()) way_out->ports = parts.networks->publish(way_out->id, wanted);
        }

        if (net_of) {
            const std::string dir = directory(net_of->id);
            input.hosts_path = dir + "/hosts";
            input.resolv_conf_path = dir + "/resolv.conf";
            input.hostname_path = dir + "/hostname";
        } else {
            write_files(*record, c, endpoints, input);
        }
        StartExtras extras;
        extras.rootfs = parts.layers->mounts(record->layer, false);
        input.user = resolve_container_user(*record, c, extras.rootfs);
        // The cgroup belongs to the sandbox, which is prepared before it is known for whom.
        input.cgroup_parent = parts.config->cgroup_parent;
        auto spec = std::make_shared<RuntimeSpec>(build_spec(input));
        spec->cgroups_path = spec->cgroups_path.substr(0, spec->cgroups_path.rfind('/') + 1) + sandbox_id;
        if (c.log_driver != "none") {
            extras.log_path = log_path(*record);
            extras.log_max_size = parts.config->log_max_size;
            extras.log_max_files = parts.config->log_max_files;
            if (auto it = c.log_options.find("max-size"); it != c.log_options.end()) {
                extras.log_max_size = it->second == "-1" ? 0 : parse_bytes(it->second);
            }
            if (auto it = c.log_options.find("max-file"); it != c.log_options.end()) {
                extras.log_max_files = static_cast<uint32_t>(std::stoul(it->second));
            }
        }
        exit_path = directory(record->id) + "/exit";
        ::unlink(exit_path.c_str());
        extras.exit_path = exit_path;
        extras.open_stdin = c.open_stdin;
        extras.stdin_once = c.stdin_once;
        extras.init = c.init.value_or(false);
        extras.external_runtime = external;
        if (!external.empty()) extras.bundle = directory(record->id) + "/bundle";

        parts.db->transact([&](Db &d) {
            std::string text;
            {
                std::lock_guard lock(record->mutex);
                const ContainerState before = record->state;
                record->sandbox_id = sandbox_id;
                record->state.status = "running";
                record->state.running = true;
                record->state.paused = record->state.restarting = false;
                record->state.started_ns = wall_ns();
                text = state_text(*record);
                record->state = before; // readers see it running when it is
            }
            d.prepare("UPDATE container SET state = ?1 WHERE id = ?2")
                .bind_all(std::string_view(text), std::string_view(record->id))
                .run();
        });
        released = true;
        auto task = parts.runtime->start(std::move(sandbox), *spec, extras, [&](Task &t) {
            std::list<PendingAttach> pending;
            {
                std::lock_guard lock(record->mutex);
                pending.swap(record->pending);
            }
            for (auto &one : pending)
                t.attach(std::move(one.connection), one.options);
        });
        uint64_t run;
        std::list<PendingAttach> late; // came after the others were taken and before it counted as running
        {
            std::lock_guard lock(record->mutex);
            late.swap(record->pending);
            auto &state = record->state;
            state.status = "running";
            state.running = true;
            state.paused = state.restarting = state.oom_killed = false;
            state.exit_code = 0;
            state.error.clear();
            state.started_ns = wall_ns();
            state.finished_ns = 0;
            begin_health(*record);
            record->task = task;
            record->spec = spec;
            record->endpoints = std::move(endpoints);
            run = ++record->run;
        }
        record->changed.notify_all();
        for (auto &one : late) // late: it may have ended already, which closes their connections
            try {
                task->attach(std::move(one.connection), one.options);
            } catch (const Error &error) {
                log_info("attach to container {}: {}", record->id, error.message());
            }
        publish(*record, "start");
        watch_exit(record, run, task);
        schedule_health(record, run);
    } catch (const Error &error) {
        sandbox.reset();
        if (c.ipc_mode == "shareable") unmount_shm(record->id);
        try {
            parts.networks->detach_all(record->id);
        } catch (const std::exception &second) {
            log_warn("detach container {}: {}", record->id, second.what());
        }
        Error shown = error;
        int code = 128;
        if (released) {
            code = exit_code_of_error(error.message());
            shown = Error(
                code == 128 ? error.error_class() : ErrorClass::kInvalidArgument,
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
                "container process: " +
                    error.message() + ": unknown",
                error.hint(), error.errno_value());
        }
        fail_start(record, shown.message(), code);
        throw shown;
    }
}

} // namespace gantry
