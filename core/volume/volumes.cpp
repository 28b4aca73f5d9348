// Volumes as plain directories. The record is written before the directory is made and deleted after it
// is gone, so recovery only has to make directories for records and drop directories without one.
#include "core/volume/volumes.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/events/events.h"
#include "core/store/db.h"

#include <boost/json.hpp>
#include <gantry/error.hpp>

#include <cctype>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <set>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {

namespace json = boost::json;

namespace {

std::string encode(const std::map<std::string, std::string> &map) {
    json::object object;
    for (const auto &[key, value] : map)
        object[key] = value;
    return json::serialize(object);
}

std::map<std::string, std::string> decode(const std::string &text) {
    std::map<std::string, std::string> map;
    boost::system::error_code error;
    const json::value value = json::parse(text, error);
    if (error || !value.is_object()) return map;
    for (const auto &[key, item] : value.as_object()) {
        if (item.is_string()) map[std::string(key)] = std::string(item.as_string());
    }
    return map;
}

void check_name(const std::string &name) {
    bool good = name.size() >= 2 && name.size() <= 255 && std::isalnum(static_cast<unsigned char>(name[0]));
    for (unsigned char c : name)
        good = good && (std::isalnum(c) || c == '_' || c == '.' || c == '-');
    if (!good) {
        throw Error(
            ErrorClass::kInvalidArgument,
            "create " + name.substr(0, 255) + ": \"" + name.substr(0, 255) +
                "\" includes invalid characters for a local volume name, only "
                "\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, "
                "use absolute path");
    }
}

/// Containers change the tree meanwhile and may nest it as they like: by descriptors, with a bound.
uint64_t measure(int at, const char *name, dev_t device, std::set<ino_t> &linked, int depth) {
    constexpr int kMaxDepth = 256;
    const int fd = ::openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return 0;
    const std::unique_ptr<DIR, int (*)(DIR *)> stream(::fdopendir(fd), ::closedir);
    if (!stream) {
        ::close(fd);
        return 0;
    }
    uint64_t bytes = 0;
    while (const dirent *entry = ::readdir(stream.get())) {
        const std::string_view child = entry->d_name;
        struct stat info {};
        if (child == "." || child == ".." || ::fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            info.st_dev != device)
            continue;
        if (info.st_nlink > 1 && !S_ISDIR(info.st_mode) && !linked.insert(info.st_ino).second) continue;
        bytes += static_cast<uint64_t>(info.st_blocks) * 512;
        if (S_ISDIR(info.st_mode) && depth < kMaxDepth)
            bytes += measure(fd, entry->d_name, device, linked, depth + 1);
    }
    return bytes;
}

Error no_such(const std::string &name) {
    return Error(ErrorClass::kNotFound, "get " + name + ": no such volume");
}

} // namespace

constexpr char kGoing[] = ".removing-"; // no name begins with a dot

struct Volumes::Impl {
    Db &db;
    Events &events;
    std::string root;
    std::mutex mutex; // orders directory work of create against remove

    std::string directory(const std::string &name) const { return root + "/volumes/" + name; }

    static constexpr const char *kColumns =
        "SELECT v.name, v.driver, v.anonymous, v.labels, v.options, v.created,"
        " (SELECT count(*) FROM volume_use u WHERE u.volume = v.name) FROM volume v";
    Volume row(Statement &statement) const {
        Volume volume;
        volume.name = statement.text(0);
        volume.driver = statement.text(1);
        volume.anonymous = statement.integer(2) != 0;
        volume.labels = decode(statement.text(3));
        volume.options = decode(statement.text(4));
        volume.created_ns = statement.integer(5);
        volume.users = static_cast<int>(statement.integer(6));
        volume.mountpoint = directory(volume.name) + "/_data";
        return volume;
    }
    bool find(const std::string &name, Volume &volume) const {
        bool found = false;
        db.transact([&](Db &d) {
            auto statement = d.prepare("SELECT v.name, v.driver, v.anonymous, v.labels, v.options, v.created,"
                                       " (SELECT count(*) FROM volume_use u WHERE u.volume = v.name)"
                                       " FROM volume v WHERE v.name = ?1");
            found = statement.bind(1, name).step();
            if (found) volume = row(statement);
        });
        return found;
    }
    void adopt(const std::string &name) {
        make_directories(directory(name) + "/_data", 0755);
        db.transact([&](Db &d) {
            d.prepare("INSERT INTO volume(name, driver, anonymous, labels, options, created)"
                      " VALUES(?1, 'local', 0, '{}', '{}', ?2)")
                .bind_all(std::string_view(name), wall_ns())
                .run();
        });
    }
    void publish(const std::string &action, const std::string &name) {
        Event event;
        event.type = "volume";
        event.action = action;
        event.id = name;
        event.attributes["driver"] = "local";
        events.publish(std::move(event));
    }
};

Volumes::Volumes(Db &db, Events &events, const std::string &root) : impl_(new Impl{db, events, root, {}}) {
    make_directories(root + "/volumes", 0701);
}
Volumes::~Volumes() = default;

Volume Volumes::create(const std::string &name, const std::map<std::string, std::string> &labels,
                       const std::map<std::string, std::string> &options) {
    if (!options.empty()) {
        throw Error(ErrorClass::kUnsupported,
                    "create volume " + name + ": option \"" + options.begin()->first +
                        "\" of the local driver is not supported",
                    "mount what you need on the host and use a bind mount");
    }
    Volume volume;
    volume.anonymous = name.empty();
    volume.name = name.empty() ? new_id() : name;
    check_name(volume.name);
    {
        std::lock_guard lock(impl_->mutex);
        Volume old;
        if (!name.empty() && impl_->find(name, old)) return old;
        volume.labels = labels;
        volume.created_ns = wall_ns();
        volume.mountpoint = impl_->directory(volume.name) + "/_data";
        impl_->db.transact([&](Db &d) {
            d.prepare("INSERT INTO volume(name, driver, anonymous, labels, options, created)"
                      " VALUES(?1, 'local', ?2, ?3, '{}', ?4)")
                .bind_all(std::string_view(volume.name), int64_t{volume.anonymous},
                          std::string_view(encode(labels)), volume.created_ns)
                .run();
        });
        failpoint("volume.row");
        make_directories(impl_->directory(volume.name), 0701);
        make_directories(volume.mountpoint, 0755);
    }
    impl_->publish("create", volume.name);
    return volume;
}

Volume Volumes::get(const std::string &name) const {
    Volume volume;
    if (!impl_->find(name, volume)) throw no_such(name);
    return volume;
}

std::vector<Volume> Volumes::list() const {
    std::vector<Volume> all;
    impl_->db.transact([&](Db &d) {
        auto statement = d.prepare(Impl::kColumns);
        while (statement.step())
            all.push_back(impl_->row(statement));
    });
    return all;
}

void Volumes::remove(const std::string &name, bool force) {
    Volume volume;
    if (!impl_->find(name, volume)) {
        if (force) return;
        throw no_such(name);
    }
    {
        std::lock_guard lock(impl_->mutex);
        std::string users;
        // Judged and renamed away within one transaction: a container that starts to use it meanwhile
        // either makes this fail or finds no volume.
        impl_->db.transact([&](Db &d) {
            auto statement = d.prepare("SELECT container FROM volume_use WHERE volume = ?1");
            statement.bind(1, name);
            while (statement.step())
                users += (users.empty() ? "" : ", ") + statement.text(0);
            if (users.empty()) d.prepare("DELETE FROM volume WHERE name = ?1").bind(1, name).run();
        });
        if (!users.empty()) {
            throw Error(ErrorClass::kFailedPrecondition,
                        "remove " + name + ": volume is in use - [" + users + "]");
        }
        // A crash before the rename leaves a directory that recover() makes a volume again: nobody was told
        // that it is gone.
        failpoint("volume.forgotten");
        const std::string going = impl_->directory(kGoing + name);
        remove_tree(going);
        if (::rename(impl_->directory(name).c_str(), going.c_str()) != 0 && errno != ENOENT)
            throw Error::from_errno(errno, "remove " + impl_->directory(name));
        failpoint("volume.renamed");
        remove_tree(going);
    }
    impl_->publish("destroy", name);
}

void Volumes::use(const std::string &name, const std::string &container_id) {
    try {
        impl_->db.transact([&](Db &d) {
            d.prepare("INSERT OR IGNORE INTO volume_use(volume, container) VALUES(?1, ?2)")
                .bind_all(std::string_view(name), std::string_view(container_id))
                .run();
        });
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kFailedPrecondition) throw no_such(name);
        throw;
    }
}

uint64_t Volumes::size(const std::string &name) const {
    const std::string path = get(name).mountpoint;
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) return 0;
    std::set<ino_t> linked;
    return measure(AT_FDCWD, path.c_str(), info.st_dev, linked, 0);
}

std::vector<std::string> Volumes::used_by(const std::string &container_id) const {
    std::vector<std::string> names;
    impl_->db.transact([&](Db &d) {
        auto statement = d.prepare("SELECT volume FROM volume_use WHERE container = ?1");
        statement.bind(1, container_id);
        while (statement.step())
            names.push_back(statement.text(0));
    });
    return names;
}

void Volumes::recover() {
    std::set<std::string> known;
    for (const Volume &volume : list()) {
        known.insert(volume.name);
        make_directories(impl_->directory(volume.name), 0701);
        make_directories(volume.mountpoint, 0755);
    }
    for (const std::string &name : list_directory(impl_->root + "/volumes")) {
        if (known.count(name)) continue;
        try {
            if (name.starts_with(kGoing)) {
                remove_tree(impl_->directory(name));
                continue;
            }
            // A power cut may take the row of a volume and leave its directory: what is in it nobody else
            // has.
            check_name(name);
            impl_->adopt(name);
            log_warn("volume {} had a directory and no record; it is a volume again, without its labels",
                     name);
        } catch (const Error &error) {
            log_warn("unknown directory {}: {}", impl_->directory(name), error.message());
        }
    }
}

} // namespace gantry
