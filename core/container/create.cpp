// Creating a container: name, image, writable layer, volumes, one database transaction. What is made
// before the record exists is undone by the guard here, or after a kill by recovery, which removes
// writable layers and directories that no record knows.
#include "core/container/containers_impl.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/events/events.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace gantry {

namespace {

[[noreturn]] void invalid(const std::string &message) { throw Error(ErrorClass::kInvalidArgument, message); }

const char *const kAdjectives[] = {
    "admiring", "bold",    "brave",    "busy",   "calm",    "clever",   "cool",    "crisp",
    "dazzling", "eager",   "elastic",  "epic",   "fervent", "focused",  "gallant", "gifted",
    "happy",    "hopeful", "jolly",    "keen",   "kind",    "laughing", "lucid",   "modest",
    "nifty",    "patient", "peaceful", "quick",  "quiet",   "serene",   "sharp",   "stoic",
    "sunny",    "tender",  "trusting", "upbeat", "vibrant", "vigilant", "wise",    "zealous"};
const char *const kSurnames[] = {
    "archimedes", "babbage", "bell",     "bohr",     "borg",     "boyd",     "cerf",    "cori",
    "curie",      "darwin",  "dijkstra", "einstein", "euclid",   "euler",    "fermat",  "franklin",
    "galileo",    "gauss",   "goodall",  "hamilton", "hawking",  "hopper",   "hypatia", "jepsen",
    "kepler",     "knuth",   "lamport",  "leavitt",  "lovelace", "mccarthy", "meitner", "mendel",
    "newton",     "noether", "pascal",   "pasteur",  "ritchie",  "shannon",  "tesla",   "turing"};

void check_name(const std::string &name) {
    bool good = name.size() >= 2 && name.size() <= 255 && std::isalnum(static_cast<unsigned char>(name[0]));
    for (unsigned char c : name)
        good = good && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
    if (!good) {
        invalid("Invalid container name (" + name.substr(0, 255) +
                "), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
    }
}

std::string with_tag(const std::string &name) {
    const auto slash = name.rfind('/');
    const bool tagged = name.find(':', slash == name.npos ? 0 : slash) != name.npos;
    return tagged || name.find('@') != name.npos ? name : name + ":latest";
}

template <typename F> struct Undo {
    F work;
    bool armed = true;
    ~Undo() {
        if (!armed) return;
        try {
            work();
        } catch (const std::exception &error) {
            log_warn("undo container creation: {}", error.what());
        }
    }
};
template <typename F> Undo(F) -> Undo<F>;

UniqueFd open_directory_in_root(int root, const std::string &path) {
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    return UniqueFd(static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how)));
}

} // namespace

std::string random_name() {
    uint32_t number[2] = {};
    if (::getrandom(number, sizeof number, 0) != sizeof number)
        throw Error::from_errno(errno, "get random bytes");
    return std::string(kAdjectives[number[0] % std::size(kAdjectives)]) + "_" +
           kSurnames[number[1] % std::size(kSurnames)];
}

std::string Containers::Impl::reserve_name(const std::string &given, const std::string &id) {
    std::string name = !given.empty() && given[0] == '/' ? given.substr(1) : given;
    if (!name.empty()) check_name(name);
    std::lock_guard lock(mutex);
    if (name.empty()) {
        do
            name = random_name() + (by_name.size() > 500 ? random_hex(2) : "");
        while (by_name.count(name));
    }
    const auto [it, fresh] = by_name.emplace(name, id);
    if (!fresh) {
        throw Error(ErrorClass::kAlreadyExists,
                    "Conflict. The container name \"/" + name + "\" is already in use by container \"" +
                        it->second +
                        "\". You have to remove (or rename) that container to be able to reuse that name.");
    }
    return name;
}

void Containers::Impl::release_name(const std::string &name) {
    std::lock_guard lock(mutex);
    by_name.erase(name);
}

std::string Containers::Impl::runtime_path(const std::string &name) const {
    const std::string wanted = name.empty() ? parts.config->default_runtime : name;
    if (wanted == "gantry" || wanted.empty()) return "";
    for (const auto &[key, path] : parts.config->runtimes) {
        if (key == wanted) return path;
    }
    invalid("unknown or invalid runtime name: " + wanted);
}

std::vector<MountPoint> Containers::Impl::resolve_mounts(const ContainerConfig &c, const std::string &layer,
                                                         std::vector<std::string> &new_volumes) {
    std::vector<MountPoint> points;
    std::vector<std::string> taken;
    UniqueFd root; // the image's content, mounted only if a new volume has to be filled
    auto add_volume = [&](const std::string &name, const std::string &target, bool read_only, bool copy,
                          const std::string &mode) {
        const Volume volume = parts.volumes->create(name, {}, {});
        if (name.empty()) new_volumes.push_back(volume.name);
        if (copy && volume.users == 0 && !layer.empty() && list_directory(volume.mountpoint).empty()) {
            if (!root) root = mount_detached(parts.layers->mounts(layer, true));
            if (UniqueFd source = open_directory_in_root(root.get(), target)) {
                copy_tree(source.get(), open_file(volume.mountpoint, O_RDONLY | O_DIRECTORY).get());
            }
        }
        points.push_back({"volume", volume.name, volume.mountpoint, target, "local", mode, "", !read_only});
        taken.push_back(target);
    };
    for (const auto &m : c.mounts) {
        if (m.type == "volume") {
            add_volume(m.source, m.target, m.read_only, !m.no_copy,
                       m.from_bind ? (m.mode.empty() ? "z" : m.mode) : (m.read_only ? "" : "z"));
        } else if (m.type == "bind") {
            if (!m.create_source && !path_exists(m.source)) {
                invalid("invalid mount config for type \"bind\": bind source path does not exist: " +
                        m.source);
            }
            points.push_back({"bind", "", m.source, m.target, "", m.mode,
                              m.propagation.empty() ? "rprivate" : m.propagation, !m.read_only});
            taken.push_back(m.target);
        } else {
            if (!m.from_bind) points.push_back({"tmpfs", "", "", m.target, "", "", "", !m.read_only});
            taken.push_back(m.target);
        }
    }
    for (const auto &entry : c.volumes_from) {
        const auto colon = entry.find(':');
        const std::string mode = colon == entry.npos ? "" : entry.substr(colon + 1);
        if (!mode.empty() && mode != "ro" && mode != "rw" && mode != "z" && mode != "Z") {
            invalid("invalid mode: " + mode);
        }
        auto other = find(entry.substr(0, colon));
        std::vector<MountPoint> theirs;
        {
            std::lock_guard lock(other->mutex);
            theirs = other->mounts;
        }
        for (auto &point : theirs) {
            if (point.type == "tmpfs") continue;
            if (std::find(taken.begin(), taken.end(), point.destination) != taken.end()) continue;
            if (mode == "ro") point.rw = false;
            taken.push_back(point.destination);
            points.push_back(std::move(point));
        }
    }
    for (const auto &path : c.volumes) {
        const std::string target = clean_path(path);
        if (std::find(taken.begin(), taken.end(), target) != taken.end()) continue;
        add_volume("", target, false, true, "");
    }
    return points;
}

Created Containers::Impl::create(const std::string &given, const ContainerConfig &asked,
                                 const std::string &platform) {
    Created created;
    auto config = std::make_shared<ContainerConfig>(asked);
    if (config->restart_policy.empty()) config->restart_policy = "no";
    if (config->image.empty()) invalid("no image specified");
    runtime_path(config->runtime);
    ImageInfo image;
    try {
        image = parts.images->get(config->image);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kNotFound) throw;
        throw Error(ErrorClass::kNotFound, "No such image: " + with_tag(config->image));
    }
    if (!platform.empty()) {
        const auto slash = platform.find('/');
        const std::string os = platform.substr(0, slash);
        std::string arch = slash == platform.npos ? "" : platform.substr(slash + 1);
        arch = arch.substr(0, arch.find('/'));
        if ((!arch.empty() && !image.architecture.empty() && arch != image.architecture) ||
            (slash != platform.npos && !image.os.empty() && os != image.os)) {
            throw Error(ErrorClass::kNotFound,
                        "image with reference " + config->image +
                            " was found but does not match the specified platform: wanted " + platform +
                            ", actual: " + image.os + "/" + image.architecture);
        }
    }
    merge_image(*config, image.config);
    check_modes(asked);
    if (!config->links.empty()) {
        for (const auto &link : config->links)
            find(link.substr(0, link.find(':')));
    }

    auto record = std::make_shared<Record>();
    record->id = new_id();
    const bool shares_net = config->network_mode.starts_with("container:");
    if (config->hostname.empty() && !shares_net && config->uts_mode != "host") {
        config->hostname = full_hostname(*config, record->id);
    }
    record->image_id = image.id;
    record->image_name = config->image;
    record->platform = image.os.empty() ? "linux" : image.os;
    record->created_ns = wall_ns();
    record->name = reserve_name(given, record->id);
    Undo name_undo{[&] { release_name(record->name); }};

    uint64_t size_limit = 0;
    if (auto it = config->storage_options.find("size"); it != config->storage_options.end()) {
        size_limit = parse_bytes(it->second);
    }
    record->layer = parts.layers->create_writable(image.top_layer, size_limit).id;
    failpoint("container.layer");
    Undo layer_undo{[&] { parts.layers->remove(record->layer); }};
    std::vector<std::string> new_volumes;
    Undo volumes_undo{[&] {
        for (const auto &name : new_volumes)
            parts.volumes->remove(name, true);
    }};
    record->mounts = resolve_mounts(*config, record->layer, new_volumes);
    const std::string dir = directory(record->id);
    make_directories(dir, 0710);
    failpoint("container.directory");
    Undo directory_undo{[&] { remove_tree(dir); }};

    record->config = config;
    const std::string text = encode_container_config(*config), state = state_text(*record);
    parts.db->transact([&](Db &d) {
        d.prepare("INSERT INTO container(id, name, phase, image, layer, config, state, created)"
                  " VALUES(?1, ?2, 'ready', ?3, ?4, ?5, ?6, ?7)")
            .bind_all(std::string_view(record->id), std::string_view(record->name),
                      std::string_view(record->image_id), std::string_view(record->layer),
                      std::string_view(text), std::string_view(state), record->created_ns)
            .run();
        // In the same transaction: from now on the volumes cannot be removed.
        for (const auto &point : record->mounts) {
            if (point.type != "volume") continue;
            d.prepare("INSERT OR IGNORE INTO volume_use(volume, container) VALUES(?1, ?2)")
                .bind_all(std::string_view(point.name), std::string_view(record->id))
                .run();
        }
    });
    failpoint("container.created");
    {
        std::lock_guard lock(mutex);
        by_id[record->id] = record;
    }
    name_undo.armed = layer_undo.armed = volumes_undo.armed = directory_undo.armed = false;
    parts.images->mark_used(image.id);
    publish(*record, "create");
    created.id = record->id;
    if (config->memory == 0 && config->oom_kill_disable.value_or(false)) {
        created.warnings.push_back("OOM killer is disabled for the container, but no memory limit is set, "
                                   "this can result in the system "
                                   "running out of resources.");
    }
    if (config->network_mode == "host" && !config->ports.empty()) {
        created.warnings.push_back("Published ports are discarded when using host network mode");
    }
    return created;
}

} // namespace gantry
