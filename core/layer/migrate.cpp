#include "core/layer/migrate.h"

#include "core/base/failpoint.h"
#include "core/base/files.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/layer/apply_changes.h"
#include "core/layer/changes.h"
#include "core/layer/tree_tar.h"
#include "core/store/db.h"
#include "core/store/moved_storage.h"

#include <gantry/changes.hpp>
#include <gantry/directory.hpp>

#include <linux/openat2.h>
#include <set>
#include <sys/statvfs.h>
#include <sys/syscall.h>

namespace gantry {
namespace {

constexpr uint64_t kSpareBytes = 64 << 20;   // the database and the file system's own needs
constexpr uint64_t kTellEvery = 16ull << 20; // bytes between two reports of one layer

struct Row {
    std::string id, parent, chain, diff, blob;
    uint64_t blob_size = 0, size = 0, inodes = 0;
    bool writable() const { return chain.empty(); }
};

Row row_of(const Statement &s) {
    return {s.text(0),
            s.text(1),
            s.text(2),
            s.text(3),
            s.text(4),
            static_cast<uint64_t>(s.integer(5)),
            static_cast<uint64_t>(s.integer(6)),
            static_cast<uint64_t>(s.integer(7))};
}

std::string gigabytes(uint64_t bytes) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
    return text;
}

UniqueFd open_beneath(int root, const std::string &path) {
    open_how how{};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
    UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, root, ("." + path).c_str(), &how, sizeof how)));
    if (!fd) throw Error::from_errno(errno, "open " + path.substr(0, 300));
    return fd;
}

bool same_bytes(int a, int b, const std::string &name, const Call &call) {
    const UniqueFd x(::openat(a, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)),
        y(::openat(b, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!x || !y) throw Error::from_errno(errno, "open " + name);
    std::string left(256 << 10, '\0'), right(left.size(), '\0');
    for (off_t at = 0;;) {
        call.check("compare layers");
        const ssize_t n = ::pread(x.get(), left.data(), left.size(), at),
                      m = ::pread(y.get(), right.data(), right.size(), at);
        if (n < 0 || m < 0) throw Error::from_errno(errno, "read " + name);
        if (n != m || std::memcmp(left.data(), right.data(), static_cast<size_t>(n)) != 0) return false;
        if (n == 0) return true;
        at += n;
    }
}

/// Files that were rewritten within the same size and time, as reproducible builds do with every layer;
/// drivers with a diff of their own know them, the walk does not.
void find_rewritten(int lower, int upper, const std::string &path, const std::set<std::string> &told,
                    std::set<std::string> &out, const Call &call) {
    std::vector<std::string> directories;
    {
        const UniqueFd low = open_beneath(lower, path), up = open_beneath(upper, path);
        for (const std::string &name : names_in(up.get(), path)) {
            struct stat below {
            }, above{};
            if (::fstatat(low.get(), name.c_str(), &below, AT_SYMLINK_NOFOLLOW) != 0 ||
                ::fstatat(up.get(), name.c_str(), &above, AT_SYMLINK_NOFOLLOW) != 0 ||
                (below.st_mode & S_IFMT) != (above.st_mode & S_IFMT))
                continue; // told already
            const std::string child = path + "/" + name;
            if (S_ISDIR(above.st_mode))
                directories.push_back(child);
            else if (S_ISREG(above.st_mode) && above.st_size > 0 && !told.contains(child) &&
                     !same_bytes(low.get(), up.get(), name, call))
                out.insert(child);
        }
    }
    for (const std::string &directory : directories)
        find_rewritten(lower, upper, directory, told, out, call);
}

/// `path` as modified, and the directories above it, if nobody told them.
void add_modified(std::string path, std::set<std::string> &told, std::vector<Change> &changes) {
    for (; !path.empty(); path.resize(path.rfind('/')))
        if (told.insert(path).second) changes.push_back({GANTRY_CHANGE_MODIFIED, path});
}

std::set<std::string> paths_of(const std::vector<Change> &changes) {
    std::set<std::string> out;
    for (const Change &change : changes)
        out.insert(change.path);
    return out;
}

/// The walk of both trees, made exact.
std::vector<Change> exact_changes(int lower, int upper, const Call &call) {
    std::vector<Change> changes = compare_trees(lower, upper, call);
    if (lower < 0) return changes;
    std::set<std::string> told = paths_of(changes), rewritten;
    find_rewritten(lower, upper, "", told, rewritten, call);
    for (const std::string &file : rewritten)
        add_modified(file, told, changes);
    std::sort(changes.begin(), changes.end(), before);
    return changes;
}

using Inode = std::pair<dev_t, ino_t>;

void find_names(int root, const std::string &path, const std::map<Inode, uint64_t> &wanted,
                std::vector<std::string> &out, const Call &call) {
    call.check("look for links");
    std::vector<std::string> directories;
    {
        const UniqueFd dir = open_beneath(root, path);
        for (const std::string &name : names_in(dir.get(), path)) {
            struct stat st {};
            if (::fstatat(dir.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
                throw Error::from_errno(errno, "stat " + path + "/" + name);
            if (S_ISDIR(st.st_mode))
                directories.push_back(path + "/" + name);
            else if (wanted.contains({st.st_dev, st.st_ino}))
                out.push_back(path + "/" + name);
        }
    }
    for (const std::string &directory : directories)
        find_names(root, directory, wanted, out, call);
}

/// A changed file may have further names that did not change: they are told too, so that they stay names
/// of one file. Only trees with such links are walked.
void add_link_partners(int tree, std::vector<Change> &changes, const Call &call) {
    std::map<Inode, uint64_t> missing; // names that were not told
    for (const Change &change : changes) {
        if (change.kind == GANTRY_CHANGE_DELETED || change.path == "/") continue;
        const size_t slash = change.path.rfind('/');
        const UniqueFd dir = open_beneath(tree, change.path.substr(0, slash));
        struct stat st {};
        if (::fstatat(dir.get(), change.path.c_str() + slash + 1, &st, AT_SYMLINK_NOFOLLOW) != 0)
            throw Error::from_errno(errno, "stat " + change.path.substr(0, 300));
        if (S_ISDIR(st.st_mode) || st.st_nlink < 2) continue;
        --missing.insert({{st.st_dev, st.st_ino}, st.st_nlink}).first->second;
    }
    std::erase_if(missing, [](const auto &entry) { return entry.second == 0; });
    if (missing.empty()) return;
    std::vector<std::string> names;
    find_names(tree, "", missing, names, call);
    std::set<std::string> told = paths_of(changes);
    for (const std::string &name : names)
        add_modified(name, told, changes);
    std::sort(changes.begin(), changes.end(), before);
}

void delete_row(Db &db, const std::string &id) {
    db.transact([&](Db &t) { t.prepare("DELETE FROM layer WHERE id=?").bind(1, id).run(); });
}

} // namespace

struct Migration::Impl {
    Db &db;
    Side from, to;
    std::string root;
    std::map<std::string, uint64_t> limits;
    Progress progress;
    StorageCaps to_caps;
    std::vector<Row> rows;                   // parents before children
    std::map<std::string, Row> by_id;        // of `rows`
    std::map<std::string, std::string> made; // old id -> new id

    void tell(const std::string &layer, const std::string &doing, uint64_t done = 0,
              uint64_t total = 0) const {
        if (progress) progress({layer, doing, done, total});
    }

    /// What images and containers stand on; the rest is not worth a copy.
    void read_rows() {
        std::map<std::string, Row> all;
        db.transact([&](Db &t) {
            auto busy = t.prepare("SELECT name FROM container WHERE phase<>'ready'");
            if (busy.step())
                throw Error(ErrorClass::kFailedPrecondition,
                            "move storage: container " + busy.text(0) + " is being made or removed",
                            "try again in a moment");
            auto bad = t.prepare("SELECT id FROM layer WHERE driver=? AND state='ready' AND damaged<>''");
            bad.bind(1, from.name);
            if (bad.step())
                throw Error(ErrorClass::kFailedPrecondition,
                            "move storage: layer " + bad.text(0) + " is damaged",
                            "mend it first: gantry system check --repair, or pull its image again");
            auto s = t.prepare(
                "WITH RECURSIVE need(id) AS (SELECT top_layer FROM image WHERE top_layer IS NOT NULL "
                "UNION SELECT layer FROM container WHERE layer IS NOT NULL "
                "UNION SELECT l.parent FROM layer l JOIN need ON l.id=need.id WHERE l.parent IS NOT NULL) "
                "SELECT id,ifnull(parent,''),ifnull(chain_id,''),diff_id,blob_digest,blob_size,size,inodes "
                "FROM layer WHERE id IN (SELECT id FROM need) AND driver=? AND state='ready'");
            s.bind(1, from.name);
            while (s.step())
                all.emplace(s.text(0), row_of(s));
        });
        by_id = all;
        const std::function<void(const std::string &)> place = [&](const std::string &id) {
            const auto it = all.find(id);
            if (it == all.end()) return; // placed already
            const Row row = it->second;
            all.erase(it);
            place(row.parent);
            rows.push_back(row);
        };
        while (!all.empty())
            place(all.begin()->first);
    }
    LayerIds parents_of(const Row &row) const {
        LayerIds out;
        for (auto it = by_id.find(row.parent); it != by_id.end(); it = by_id.find(it->second.parent))
            out.push_back(it->first);
        return out;
    }
    LayerIds made_parents(const Row &row) const {
        LayerIds out;
        for (const std::string &id : parents_of(row))
            out.push_back(made.at(id));
        return out;
    }

    /// Keeps finished copies of image layers; everything else in the target is from a move that was
    /// interrupted (a container may have run since: its copy is worth nothing).
    void clean_target(bool keep_finished, const Call &call) {
        std::set<std::string> chains, known;
        if (keep_finished)
            for (const Row &row : rows)
                if (!row.writable()) chains.insert(row.chain);
        std::map<std::string, std::string> drop; // id -> parent
        db.transact([&](Db &t) {
            auto s =
                t.prepare("SELECT id,ifnull(parent,''),ifnull(chain_id,''),state FROM layer WHERE driver=?");
            s.bind(1, to.name);
            while (s.step()) {
                if (s.text(3) == "ready" && chains.contains(s.text(2)))
                    known.insert(s.text(0));
                else
                    drop.emplace(s.text(0), s.text(1));
            }
        });
        while (!drop.empty()) { // children before parents
            std::set<std::string> parents;
            for (const auto &[id, parent] : drop)
                parents.insert(parent);
            for (auto it = drop.begin(); it != drop.end();) {
                if (parents.contains(it->first)) {
                    ++it;
                    continue;
                }
                to.driver->remove(call, it->first);
                delete_row(db, it->first);
                it = drop.erase(it);
            }
        }
        for (const std::string &id : to.driver->list(call))
            if (!known.contains(id)) to.driver->remove(call, id);
    }
    void find_made() {
        db.transact([&](Db &t) {
            for (const Row &row : rows) {
                if (row.writable()) continue;
                auto s = t.prepare("SELECT id FROM layer WHERE driver=? AND chain_id=? AND state='ready'");
                s.bind_all(to.name, row.chain);
                if (s.step()) made[row.id] = s.text(0);
            }
        });
    }

    std::string add_row(const Row &row) {
        std::string id;
        db.transact([&](Db &t) {
            id = next_layer_id(t);
            auto s =
                t.prepare("INSERT INTO layer(id,driver,state,parent,diff_id,blob_digest,blob_size,created) "
                          "VALUES(?,?,'making',?,?,?,?,?)");
            s.bind(1, id).bind(2, to.name);
            if (row.parent.empty())
                s.bind_null(3);
            else
                s.bind(3, made.at(row.parent));
            s.bind(4, row.diff).bind(5, row.blob).bind(6, static_cast<int64_t>(row.blob_size));
            s.bind(7, wall_ns()).run();
        });
        return id;
    }

    void copy_layer(const Row &row, const Call &call) {
        const uint64_t total = row.writable() ? from.driver->usage(call, row.id).bytes : row.size;
        tell(row.id, "Copying", 0, total);
        const LayerIds old_parents = parents_of(row), new_parents = made_parents(row);
        const bool alone = to_caps.independent_layers && !row.writable();
        const std::string id = add_row(row);
        failpoint("migrate.row");
        const auto limit = limits.find(row.id);
        to.driver->create(call, id, alone ? LayerIds{} : new_parents,
                          limit == limits.end() ? 0 : limit->second);
        {
            const UniqueFd source = mount_detached(from.driver->mounts(call, row.id, old_parents, true));
            const UniqueFd target =
                mount_detached(to.driver->mounts(call, id, alone ? LayerIds{} : new_parents, false));
            uint64_t done = 0, told = 0;
            apply_changes(source.get(), {target.get(), alone ? to_caps.whiteout : GANTRY_WHITEOUT_NONE},
                          changes_of(row, old_parents, source.get(), call), call, [&](uint64_t bytes) {
                              done += bytes;
                              if (done - told < kTellEvery) return;
                              told = done;
                              tell(row.id, "Copying", std::min(done, total), total);
                          });
        }
        failpoint("migrate.applied");
        if (!row.writable()) {
            to.driver->commit(call, id, new_parents, false);
            failpoint("migrate.committed");
            const Usage usage = to.driver->usage(call, id);
            db.transact([&](Db &t) {
                t.prepare("UPDATE layer SET state='ready',chain_id=?,size=?,inodes=? WHERE id=?")
                    .bind(1, row.chain)
                    .bind(2, static_cast<int64_t>(usage.bytes))
                    .bind(3, static_cast<int64_t>(usage.inodes))
                    .bind(4, id)
                    .run();
            });
        } // a writable one stays in the making until the switch
        failpoint("migrate.copied");
        made[row.id] = id;
        tell(row.id, "Copied");
    }
    std::vector<Change> changes_of(const Row &row, const LayerIds &parents, int source,
                                   const Call &call) const {
        std::vector<Change> out;
        if (from.driver->has_changes()) {
            from.driver->changes(call, row.id, parents, [&](const Change &c) { out.push_back(c); });
            add_link_partners(source, out, call);
            return out;
        }
        UniqueFd lower;
        if (!parents.empty())
            lower = mount_detached(from.driver->mounts(call, parents.front(),
                                                       LayerIds(parents.begin() + 1, parents.end()), true));
        out = exact_changes(lower.get(), source, call);
        add_link_partners(source, out, call);
        return out;
    }

    /// Before anything depends on it: what nothing stands on shows everything below it.
    void compare(const Row &row, const Call &call) const {
        const UniqueFd old = mount_detached(from.driver->mounts(call, row.id, parents_of(row), true));
        const UniqueFd now =
            mount_detached(to.driver->mounts(call, made.at(row.id), made_parents(row), true));
        const std::vector<Change> found = compare_trees(old.get(), now.get(), call, false);
        if (found.empty()) return;
        throw Error(ErrorClass::kDataLoss,
                    "move storage: layer " + row.id + " differs in " + to.name + " from " + from.name +
                        " at " + found.back().path.substr(0, 300) + " and " +
                        std::to_string(found.size() - 1) + " other places",
                    "nothing was changed; please report it");
    }
};

Migration::Migration(Db &db, Side from, Side to, std::string root,
                     std::map<std::string, uint64_t> size_limits, Progress progress)
    : impl_(new Impl{db, std::move(from), std::move(to), std::move(root), std::move(size_limits),
                     std::move(progress)}) {}
Migration::~Migration() = default;

size_t Migration::layers() const { return impl_->rows.size(); }

void Migration::judge(const Call &call) {
    Impl &m = *impl_;
    m.rows.clear();
    m.read_rows();
    m.to_caps = m.to.driver->caps(call);
    if (!m.limits.empty() && !m.to_caps.quota)
        throw Error(ErrorClass::kFailedPrecondition,
                    "move storage to " + m.to.name + ": containers have size limits (--storage-opt size=), " +
                        "which it cannot keep here",
                    "remove them, or see the documentation of the driver for what quotas need");
    m.clean_target(true, call);
    m.find_made();
    // A driver that copies parents, and cannot share their data, needs all of them once more a layer.
    const bool complete = !m.to_caps.independent_layers && !m.to_caps.reflink;
    std::map<std::string, std::pair<uint64_t, uint64_t>> whole;
    uint64_t bytes = 0, inodes = 0;
    for (const Row &row : m.rows) {
        const Usage own = row.writable() ? m.from.driver->usage(call, row.id) : Usage{row.size, row.inodes};
        auto &sum = whole[row.id];
        sum = {own.bytes, own.inodes};
        if (complete && !row.parent.empty()) {
            sum.first += whole[row.parent].first;
            sum.second += whole[row.parent].second;
        }
        if (m.to_caps.max_parents != 0 && m.parents_of(row).size() > m.to_caps.max_parents)
            throw Error(ErrorClass::kFailedPrecondition, "move storage to " + m.to.name +
                                                             ": it cannot stack as many layers as layer " +
                                                             row.id + " has");
        if (m.made.contains(row.id)) continue;
        bytes += sum.first;
        inodes += sum.second;
    }
    struct statvfs space {};
    if (::statvfs(m.root.c_str(), &space) != 0)
        throw Error::from_errno(errno, "look at the space of " + m.root);
    const uint64_t free = uint64_t(space.f_bavail) * space.f_frsize;
    if (free < bytes + bytes / 20 + kSpareBytes)
        throw Error(ErrorClass::kNoSpace,
                    "move storage to " + m.to.name + ": it needs about " + gigabytes(bytes) + " in " +
                        m.root + ", and " + gigabytes(free) + " are free",
                    "remove what is not needed (gantry system prune), or make room");
    if (space.f_files != 0 && space.f_favail < inodes) // 0: made as needed
        throw Error(ErrorClass::kNoSpace, "move storage to " + m.to.name + ": it needs " +
                                              std::to_string(inodes) + " inodes in " + m.root + ", and " +
                                              std::to_string(space.f_favail) + " are free");
    m.tell("", "Moving " + std::to_string(m.rows.size()) + " layers (" + gigabytes(bytes) + ") from " +
                   m.from.name + " to " + m.to.name);
}

void Migration::copy(const Call &call) {
    Impl &m = *impl_;
    for (const Row &row : m.rows) {
        if (m.made.contains(row.id))
            m.tell(row.id, "Copied before");
        else
            m.copy_layer(row, call);
    }
    std::set<std::string> below;
    for (const Row &row : m.rows)
        below.insert(row.parent);
    for (const Row &row : m.rows) {
        if (below.contains(row.id)) continue;
        m.tell(row.id, "Comparing");
        m.compare(row, call);
        m.tell(row.id, "Same in both");
    }
}

void Migration::switch_over() {
    Impl &m = *impl_;
    // The old data goes after this, so that the new must have reached the disk whatever `durable` says.
    const UniqueFd dir = open_file(m.root, O_RDONLY | O_DIRECTORY);
    if (::syncfs(dir.get()) != 0) throw Error::from_errno(errno, "sync " + m.root);
    m.db.transact([&](Db &t) {
        for (const auto &[old, now] : m.made) {
            t.prepare("UPDATE image SET top_layer=? WHERE top_layer=?").bind_all(now, old).run();
            t.prepare("UPDATE container SET layer=? WHERE layer=?").bind_all(now, old).run();
            t.prepare("UPDATE layer SET state='ready' WHERE id=?").bind(1, now).run();
        }
        // Without parents they can be removed in any order.
        t.prepare("UPDATE layer SET state='removing',parent=NULL WHERE driver=?").bind(1, m.from.name).run();
        record_move(t, {m.from.name, m.to.name});
    });
    failpoint("migrate.switched");
    m.db.sync(); // from here on the move survives a power cut
    m.tell("", m.to.name + " is in charge");
}

void Migration::forget(const Call &call) { impl_->clean_target(false, call); }

namespace {

std::vector<std::string> drivers_found(Db &db, std::string_view sql, const std::string &current) {
    std::vector<std::string> out;
    db.transact([&](Db &t) {
        auto s = t.prepare(sql);
        s.bind(1, current);
        while (s.step())
            out.push_back(s.text(0));
    });
    return out;
}

} // namespace

std::vector<std::string> drivers_moved_from(Db &db, const std::string &current) {
    return drivers_found(db, "SELECT DISTINCT driver FROM layer WHERE driver<>? AND state='removing'",
                         current);
}
std::vector<std::string> drivers_with_copies(Db &db, const std::string &current) {
    return drivers_found(db, "SELECT DISTINCT driver FROM layer WHERE driver<>? AND state<>'removing'",
                         current);
}

void remove_moved(Db &db, const Migration::Side &old, const std::string &folder, const Call &call,
                  const Migration::Progress &progress) {
    std::vector<std::string> ids;
    db.transact([&](Db &t) {
        auto s = t.prepare("SELECT id FROM layer WHERE driver=? AND state='removing'");
        s.bind(1, old.name);
        while (s.step())
            ids.push_back(s.text(0));
    });
    if (progress) progress({"", "Removing " + std::to_string(ids.size()) + " layers of " + old.name});
    for (const std::string &id : ids) {
        old.driver->remove(call, id);
        failpoint("migrate.removed");
        delete_row(db, id);
    }
    for (const std::string &id : old.driver->list(call))
        old.driver->remove(call, id);
    if (::rmdir(folder.c_str()) != 0 && errno != ENOENT)
        log_warn("{} keeps what storage driver {} left there: {}", folder, old.name, std::strerror(errno));
}

} // namespace gantry
