// Every layer passes making -> ready -> removing. The row is written before the driver works and
// changed after, so that a kill at any instruction leaves a state recover() can finish or undo. No
// transaction is open and no lock is held while a driver works.
#include "core/layer/layers.h"

#include "core/base/failpoint.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/layer/changes.h"
#include "core/layer/record.h"
#include "core/layer/tar_skeleton.h"
#include "core/layer/write_behind.h"
#include "core/store/db.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

namespace gantry {
namespace {

constexpr char kColumns[] =
    "SELECT id,ifnull(parent,''),ifnull(chain_id,''),diff_id,blob_digest,blob_size,size,inodes,damaged ";

Layer layer_of(const Statement &row) {
    Layer l;
    l.id = row.text(0);
    l.parent = row.text(1);
    l.chain_id = row.text(2);
    l.diff_id = row.text(3);
    l.blob_digest = row.text(4);
    l.blob_size = static_cast<uint64_t>(row.integer(5));
    l.size = static_cast<uint64_t>(row.integer(6));
    l.inodes = static_cast<uint64_t>(row.integer(7));
    l.damaged = row.text(8);
    return l;
}

// Lower-case base 32 without padding: short, so that mount options stay short.
std::string base32(uint64_t value) {
    static const char kDigits[] = "0123456789abcdefghijklmnopqrstuv";
    std::string out;
    do {
        out.insert(out.begin(), kDigits[value & 31]);
        value >>= 5;
    } while (value != 0);
    return out;
}

} // namespace

std::string chain_id_of(const std::string &parent_chain_id, const std::string &diff_id) {
    return parent_chain_id.empty() ? diff_id : sha256_of(parent_chain_id + " " + diff_id);
}

std::string next_layer_id(Db &transaction) {
    std::string id;
    {
        auto counter = transaction.prepare("SELECT next FROM layer_counter");
        if (!counter.step()) throw Error(ErrorClass::kDataLoss, "make layer: the layer counter is gone");
        id = base32(static_cast<uint64_t>(counter.integer(0)));
    }
    transaction.prepare("UPDATE layer_counter SET next=next+1").run();
    return id;
}

struct Layers::Impl {
    Db &db;
    std::shared_ptr<StorageDriver> driver;
    std::string name;
    bool durable;
    LayerRecords records;
    TarSkeletons skeletons;
    StorageCaps caps;
    std::mutex mutex;
    int holds = 0;
    std::set<std::string> held; // layers seen while anybody holds

    Impl(Db &db_, std::shared_ptr<StorageDriver> driver_, std::string name_, bool durable_,
         const std::string &records_)
        : db(db_), driver(std::move(driver_)), name(std::move(name_)), durable(durable_), records(records_),
          skeletons(records_.empty() ? "" : records_ + "-tar") {
        const CallScope scope;
        caps = driver->caps(scope);
    }

    void touch(const std::string &id) {
        const std::lock_guard lock(mutex);
        if (holds > 0) held.insert(id);
    }
    void begin_hold() {
        const std::lock_guard lock(mutex);
        ++holds;
    }
    void end_hold() noexcept {
        const std::lock_guard lock(mutex);
        if (--holds == 0) held.clear();
    }

    /// Intent: a row in state 'making'.
    std::string add_row(const std::string &parent, const NewLayer &what) {
        std::string id;
        db.transact([&](Db &t) {
            id = next_layer_id(t);
            if (!parent.empty()) require_ready(t, parent);
            auto insert =
                t.prepare("INSERT INTO layer(id,driver,state,parent,diff_id,blob_digest,blob_size,created) "
                          "VALUES(?,?,'making',?,?,?,?,?)");
            insert.bind(1, id).bind(2, name);
            if (parent.empty())
                insert.bind_null(3);
            else
                insert.bind(3, parent);
            insert.bind(4, what.diff_id)
                .bind(5, what.blob_digest)
                .bind(6, static_cast<int64_t>(what.blob_size));
            insert.bind(7, wall_ns()).run();
        });
        return id;
    }
    void require_ready(Db &t, const std::string &id) const {
        auto row = t.prepare("SELECT 1 FROM layer WHERE id=? AND driver=? AND state='ready'");
        row.bind_all(id, name);
        if (!row.step()) throw Error(ErrorClass::kNotFound, "use layer " + id + ": no such layer");
    }
    LayerIds lineage(const std::string &id) const {
        LayerIds ids;
        if (id.empty()) return ids;
        db.transact([&](Db &t) {
            auto rows =
                t.prepare("WITH RECURSIVE up(id,parent,depth) AS (SELECT id,parent,0 FROM layer WHERE id=?1 "
                          "UNION ALL SELECT l.id,l.parent,up.depth+1 FROM layer l JOIN up ON l.id=up.parent) "
                          "SELECT id FROM up ORDER BY depth");
            rows.bind(1, id);
            while (rows.step())
                ids.push_back(rows.text(0));
        });
        if (ids.empty()) throw Error(ErrorClass::kNotFound, "use layer " + id + ": no such layer");
        return ids;
    }
    LayerIds ancestors(const std::string &id) const {
        LayerIds ids = lineage(id);
        ids.erase(ids.begin());
        return ids;
    }
    void check_depth(const LayerIds &parents) const {
        if (caps.max_parents != 0 && parents.size() > caps.max_parents)
            throw Error(ErrorClass::kUnsupported, "make layer: " + std::to_string(parents.size()) +
                                                      " parents are more than storage driver " + name +
                                                      " can stack");
    }
    void delete_row(const std::string &id) {
        std::string unused; // the diff id, when no other layer has it
        db.transact([&](Db &t) {
            {
                auto row =
                    t.prepare("SELECT diff_id FROM layer l WHERE id=?1 AND NOT EXISTS(SELECT 1 FROM layer o "
                              "WHERE o.diff_id=l.diff_id AND o.id<>?1)");
                row.bind(1, id);
                if (row.step()) unused = row.text(0);
            }
            // A container on its way in or out may still name the layer it made or gives up.
            t.prepare("UPDATE container SET layer=NULL WHERE layer=? AND phase<>'ready'").bind(1, id).run();
            t.prepare("DELETE FROM layer WHERE id=?").bind(1, id).run();
        });
        failpoint("layer.forgotten");
        records.remove(unused);
        skeletons.remove(unused);
    }
    /// The row says 'making' or 'removing' when this is called.
    void destroy(const std::string &id) {
        const CallScope scope;
        failpoint("layer.removing");
        driver->remove(scope, id);
        failpoint("layer.removed");
        delete_row(id);
    }
    /// What stood on `old` stands on `now` from here on. Drivers are told parents with every call.
    void take_place(Db &t, const std::string &old, const std::string &now) {
        t.prepare("UPDATE layer SET parent=? WHERE parent=?").bind_all(now, old).run();
        t.prepare("UPDATE image SET top_layer=? WHERE top_layer=?").bind_all(now, old).run();
        t.prepare("UPDATE layer SET state='removing',chain_id=NULL,parent=NULL,damaged=? WHERE id=?")
            .bind_all(now, old)
            .run();
    }
    /// A running container has the old directories mounted; the kernel does not bear that they go.
    bool in_use_below(const std::string &now) {
        bool used = false;
        db.transact([&](Db &t) {
            auto row = t.prepare(
                "WITH RECURSIVE above(id) AS (SELECT ?1 UNION SELECT l.id FROM layer l JOIN above "
                "ON l.parent=above.id) SELECT 1 FROM container WHERE layer IN (SELECT id FROM above) "
                "AND instr(replace(state,' ',''),'\"running\":true')<>0 LIMIT 1");
            row.bind(1, now);
            used = row.step();
        });
        return used;
    }
    void end_replaced() {
        std::map<std::string, std::string> retired;
        db.transact([&](Db &t) {
            auto rows =
                t.prepare("SELECT id,damaged FROM layer WHERE driver=? AND state='removing' AND damaged<>''");
            rows.bind(1, name);
            while (rows.step())
                retired.emplace(rows.text(0), rows.text(1));
        });
        for (const auto &[old, now] : retired)
            retire(old, now);
    }
    void retire(const std::string &old, const std::string &now) {
        if (in_use_below(now))
            log_info("layer {} was replaced by {} and goes when its containers have stopped", old, now);
        else
            undo(old);
    }
    void undo(const std::string &id) noexcept {
        try {
            destroy(id);
        } catch (const std::exception &error) {
            log_warn("undo layer {}: {}; the next start tries again", id, error.what());
        }
    }
};

Layers::Layers(Db &db, std::shared_ptr<StorageDriver> driver, std::string driver_name, bool durable,
               const std::string &records)
    : impl_(std::make_unique<Impl>(db, std::move(driver), std::move(driver_name), durable, records)) {}
Layers::~Layers() = default;

bool Layers::independent() const { return impl_->caps.independent_layers; }
gantry_whiteout Layers::whiteout() const { return impl_->caps.whiteout; }
const LayerRecords &Layers::records() const { return impl_->records; }

bool Layers::whole(const std::string &id) const {
    bool out = true;
    for (const std::string &part : lineage(id))
        out = out && get(part).damaged.empty();
    return out;
}

std::shared_ptr<void> Layers::hold() {
    impl_->begin_hold();
    return {impl_.get(), [](Impl *impl) { impl->end_hold(); }};
}

std::optional<Layer> Layers::find(const std::string &chain_id) const {
    std::optional<Layer> found;
    impl_->db.transact([&](Db &t) {
        auto row = t.prepare(std::string(kColumns) +
                             "FROM layer WHERE driver=? AND chain_id=? AND state='ready' AND damaged=''");
        row.bind_all(impl_->name, chain_id);
        if (row.step()) found = layer_of(row);
        // Within the transaction: sweep() decides within one too.
        if (found) impl_->touch(found->id);
    });
    return found;
}

Layer Layers::get(const std::string &id) const {
    std::optional<Layer> found;
    impl_->db.transact([&](Db &t) {
        auto row = t.prepare(std::string(kColumns) + "FROM layer WHERE id=? AND driver=? AND state='ready'");
        row.bind_all(id, impl_->name);
        if (row.step()) found = layer_of(row);
    });
    if (!found) throw Error(ErrorClass::kNotFound, "find layer " + id + ": no such layer");
    return *found;
}

LayerIds Layers::lineage(const std::string &id) const { return impl_->lineage(id); }

class LayerInTheMaking final : public Layers::Making {
  public:
    LayerInTheMaking(Layers::Impl &impl, const Layers::NewLayer &what, const std::string &parent)
        : impl_(impl), expected_(what.diff_id), parent_(parent) {
        impl_.begin_hold();
        try {
            const LayerIds parents = impl_.caps.independent_layers ? LayerIds{} : impl_.lineage(parent);
            id_ = impl_.add_row(impl_.caps.independent_layers ? "" : parent, what);
            const CallScope scope;
            failpoint("layer.row");
            impl_.driver->create(scope, id_, parents, 0);
            failpoint("layer.created");
        } catch (...) {
            if (!id_.empty()) impl_.undo(id_);
            impl_.end_hold();
            throw;
        }
    }
    ~LayerInTheMaking() override {
        if (!finished_) impl_.undo(id_);
        impl_.end_hold();
    }

    void unpack(const ByteSource &source, const Call &call) override {
        const CallScope scope;
        const LayerIds parents = impl_.caps.independent_layers ? LayerIds{} : impl_.ancestors(id_);
        const UniqueFd root = mount_detached(impl_.driver->mounts(scope, id_, parents, false));
        WriteBehind behind(root.get());
        const ByteSource counted = [&](void *buffer, size_t size) {
            const size_t n = source(buffer, size);
            behind.count(n);
            return n;
        };
        record_.emplace();
        skeleton_.emplace();
        const UnpackResult result =
            unpack_layer(impl_.durable ? counted : source, root.get(), impl_.caps.whiteout, UnpackLimits{},
                         call, &*record_, &*skeleton_);
        behind.end();
        failpoint("layer.unpacked");
        if (!expected_.empty() && result.diff_id != expected_)
            throw Error(ErrorClass::kDataLoss,
                        "unpack layer " + expected_ + ": the content's digest is " + result.diff_id);
        diff_id_ = result.diff_id;
    }

    Layer finish(const std::string &parent_id) override {
        if (diff_id_.empty())
            throw Error(ErrorClass::kFailedPrecondition, "finish layer " + id_ + ": nothing was unpacked");
        if (!impl_.caps.independent_layers && parent_id != parent_)
            throw Error(ErrorClass::kInvalidArgument,
                        "finish layer " + id_ + ": not the parent it was begun on");
        const LayerIds parents = impl_.lineage(parent_id);
        impl_.check_depth(parents);
        const CallScope scope;
        impl_.records.put(diff_id_, *record_, impl_.durable);
        impl_.skeletons.put(diff_id_, *skeleton_, impl_.durable);
        failpoint("layer.recorded");
        impl_.driver->commit(scope, id_, parents, impl_.durable);
        failpoint("layer.committed");
        const Usage usage = impl_.driver->usage(scope, id_);
        // Visible from here on. Should a power cut take the row, recover() takes the content.
        const Layer layer = publish(parent_id, usage);
        failpoint("layer.published");
        finished_ = true;
        if (layer.id != id_) impl_.undo(id_);
        if (!replaced_.empty()) impl_.retire(replaced_, id_);
        return layer;
    }

  private:
    Layer publish(const std::string &parent_id, const Usage &usage) {
        Layer layer;
        impl_.db.transact([&](Db &t) {
            std::string chain = diff_id_;
            if (!parent_id.empty()) {
                auto row = t.prepare("SELECT chain_id FROM layer WHERE id=? AND driver=? AND state='ready'");
                row.bind_all(parent_id, impl_.name);
                if (!row.step() || row.is_null(0))
                    throw Error(ErrorClass::kNotFound,
                                "finish layer " + id_ + ": its parent " + parent_id + " is gone");
                chain = chain_id_of(row.text(0), diff_id_);
            }
            bool lost = false;
            {
                auto winner = t.prepare(std::string(kColumns) +
                                        "FROM layer WHERE driver=? AND chain_id=? AND state='ready'");
                winner.bind_all(impl_.name, chain);
                if (winner.step()) {
                    layer = layer_of(winner);
                    lost = layer.damaged.empty();
                    if (!lost) replaced_ = layer.id;
                }
            }
            if (lost) {
                t.prepare("UPDATE layer SET state='removing' WHERE id=?").bind(1, id_).run();
                impl_.touch(layer.id);
                return;
            }
            if (!replaced_.empty()) impl_.take_place(t, replaced_, id_);
            auto update = t.prepare(
                "UPDATE layer SET state='ready',parent=?,chain_id=?,diff_id=?,size=?,inodes=? WHERE id=?");
            if (parent_id.empty())
                update.bind_null(1);
            else
                update.bind(1, parent_id);
            update.bind(2, chain).bind(3, diff_id_).bind(4, static_cast<int64_t>(usage.bytes));
            update.bind(5, static_cast<int64_t>(usage.inodes)).bind(6, id_).run();
            auto row = t.prepare(std::string(kColumns) + "FROM layer WHERE id=?");
            row.bind(1, id_);
            if (!row.step()) throw Error(ErrorClass::kInternal, "finish layer " + id_ + ": its row is gone");
            layer = layer_of(row);
            impl_.touch(id_);
        });
        return layer;
    }

    Layers::Impl &impl_;
    std::string expected_, parent_, id_, diff_id_, replaced_;
    std::optional<LayerRecord> record_;
    std::optional<TarSkeleton> skeleton_;
    bool finished_ = false;
};

std::unique_ptr<Layers::Making> Layers::begin(const NewLayer &what, const std::string &parent_id) {
    return std::make_unique<LayerInTheMaking>(*impl_, what, parent_id);
}

Layer Layers::create_writable(const std::string &parent_id, uint64_t size_limit) {
    const LayerIds parents = impl_->lineage(parent_id);
    impl_->check_depth(parents);
    const std::string id = impl_->add_row(parent_id, {});
    try {
        const CallScope scope;
        failpoint("writable.row");
        impl_->driver->create(scope, id, parents, size_limit);
        failpoint("writable.created");
        impl_->db.transact(
            [&](Db &t) { t.prepare("UPDATE layer SET state='ready' WHERE id=?").bind(1, id).run(); });
    } catch (...) {
        impl_->undo(id);
        throw;
    }
    Layer layer;
    layer.id = id;
    layer.parent = parent_id;
    return layer;
}

std::vector<Mount> Layers::mounts(const std::string &id, bool read_only) const {
    const CallScope scope;
    return impl_->driver->mounts(scope, id, impl_->ancestors(id), read_only);
}

void Layers::remove(const std::string &id) {
    impl_->db.transact([&](Db &t) {
        const auto used = [&](const char *sql, const char *by) {
            auto row = t.prepare(sql);
            row.bind(1, id);
            if (row.step())
                throw Error(ErrorClass::kFailedPrecondition,
                            "remove layer " + id + ": in use by " + by + " " + row.text(0));
        };
        used("SELECT id FROM layer WHERE parent=? LIMIT 1", "layer");
        used("SELECT id FROM image WHERE top_layer=? LIMIT 1", "image");
        used("SELECT id FROM container WHERE layer=? AND phase='ready' LIMIT 1", "container");
        t.prepare("UPDATE layer SET state='removing' WHERE id=? AND driver=? AND state<>'making'")
            .bind_all(id, impl_->name)
            .run();
        if (t.changes() == 0) throw Error(ErrorClass::kNotFound, "remove layer " + id + ": no such layer");
    });
    impl_->destroy(id);
}

uint64_t Layers::sweep() {
    uint64_t freed = 0;
    std::exception_ptr first_error;
    impl_->end_replaced();
    for (;;) { // a round per generation: parents become free when their children are gone
        std::vector<Layer> victims;
        impl_->db.transact([&](Db &t) {
            {
                auto rows =
                    t.prepare(std::string(kColumns) +
                              "FROM layer l WHERE driver=? AND state='ready' AND chain_id IS NOT NULL "
                              "AND NOT EXISTS(SELECT 1 FROM layer c WHERE c.parent=l.id) "
                              "AND NOT EXISTS(SELECT 1 FROM image i WHERE i.top_layer=l.id) "
                              "AND NOT EXISTS(SELECT 1 FROM container c WHERE c.layer=l.id) "
                              "AND NOT EXISTS(SELECT 1 FROM pull_part p WHERE p.part=l.chain_id)");
                rows.bind(1, impl_->name);
                const std::lock_guard lock(impl_->mutex);
                while (rows.step())
                    if (Layer l = layer_of(rows); !impl_->held.contains(l.id))
                        victims.push_back(std::move(l));
            }
            for (const Layer &l : victims)
                t.prepare("UPDATE layer SET state='removing' WHERE id=?").bind(1, l.id).run();
        });
        if (victims.empty()) break;
        for (const Layer &l : victims) {
            try {
                impl_->destroy(l.id);
                freed += l.size;
            } catch (...) {
                if (!first_error) first_error = std::current_exception();
            }
        }
    }
    if (first_error) std::rethrow_exception(first_error);
    return freed;
}

Usage Layers::usage(const std::string &id) const {
    const Layer layer = get(id);
    if (!layer.chain_id.empty()) return {layer.size, layer.inodes};
    const CallScope scope;
    return impl_->driver->usage(scope, id);
}

std::vector<Change> Layers::changes(const std::string &id) const {
    const CallScope scope;
    const LayerIds parents = impl_->ancestors(id);
    if (impl_->driver->has_changes()) {
        try {
            std::vector<Change> out;
            impl_->driver->changes(scope, id, parents, [&](const Change &c) { out.push_back(c); });
            return out;
        } catch (const Error &error) {
            // A layer that this driver cannot read from its own part alone.
            if (error.error_class() != ErrorClass::kUnsupported) throw;
        }
    }
    const UniqueFd upper = mount_detached(impl_->driver->mounts(scope, id, parents, true));
    UniqueFd lower;
    if (!parents.empty())
        lower = mount_detached(impl_->driver->mounts(scope, parents.front(),
                                                     LayerIds(parents.begin() + 1, parents.end()), true));
    return compare_trees(lower.get(), upper.get(), scope);
}

std::vector<Layer> Layers::list() const {
    std::vector<Layer> out;
    impl_->db.transact([&](Db &t) {
        auto rows = t.prepare(std::string(kColumns) + "FROM layer WHERE driver=? AND state='ready'");
        rows.bind(1, impl_->name);
        while (rows.step())
            out.push_back(layer_of(rows));
    });
    return out;
}

std::vector<std::string> Layers::unknown() const {
    const CallScope scope;
    std::vector<std::string> out;
    for (const std::string &id : impl_->driver->list(scope)) // before the rows: those are written first
        impl_->db.transact([&](Db &t) {
            auto row = t.prepare("SELECT 1 FROM layer WHERE id=? AND driver=?");
            row.bind_all(id, impl_->name);
            if (!row.step()) out.push_back(id);
        });
    return out;
}

std::vector<std::string> Layers::missing() const {
    std::vector<Layer> rows = list(); // before the directories: those go last
    const CallScope scope;
    const std::vector<std::string> found = impl_->driver->list(scope);
    const std::set<std::string> there(found.begin(), found.end());
    std::vector<std::string> out;
    for (const Layer &l : rows)
        if (!there.contains(l.id)) out.push_back(l.id);
    return out;
}

void Layers::remove_unknown(const std::string &id) {
    const std::vector<std::string> still = unknown();
    if (std::find(still.begin(), still.end(), id) == still.end()) return;
    const CallScope scope;
    impl_->driver->remove(scope, id);
}

UniqueFd Layers::own_tree(const std::string &id) const {
    const CallScope scope;
    const LayerIds parents = impl_->caps.independent_layers ? LayerIds{} : impl_->ancestors(id);
    return mount_detached(impl_->driver->mounts(scope, id, parents, true));
}

Usage Layers::count(const std::string &id) const {
    const CallScope scope;
    return impl_->driver->usage(scope, id);
}

void Layers::mark_damaged(const std::string &id, const std::string &why) {
    impl_->db.transact([&](Db &t) {
        t.prepare(
             "UPDATE layer SET damaged=? WHERE id=? AND driver=? AND state='ready' AND chain_id IS NOT NULL")
            .bind_all(why, id, impl_->name)
            .run();
    });
}

void Layers::remove_unfinished(const std::string &id) {
    bool there = false;
    impl_->db.transact([&](Db &t) {
        auto row = t.prepare("SELECT 1 FROM layer WHERE id=? AND driver=? AND state<>'ready'");
        row.bind_all(id, impl_->name);
        there = row.step();
    });
    if (there) impl_->destroy(id);
}

std::vector<std::string> Layers::stray_records() const {
    std::set<std::string> diffs;
    bool making = false;
    impl_->db.transact([&](Db &t) {
        auto rows = t.prepare("SELECT diff_id,state FROM layer");
        while (rows.step()) {
            diffs.insert(rows.text(0));
            making = making || rows.text(1) == "making";
        }
    });
    return making ? std::vector<std::string>{} : impl_->records.keep_only(diffs, true);
}

std::optional<uint64_t> Layers::tar_size(const Layer &layer) const {
    return impl_->skeletons.tar_size(layer.diff_id);
}

void Layers::write_tar(const Layer &layer, const ByteSink &sink, const Call &call) const {
    const UniqueFd tree = own_tree(layer.id);
    Hasher hasher;
    impl_->skeletons.write_tar(
        layer.diff_id, tree.get(),
        [&](const void *bytes, size_t size) {
            hasher.update(bytes, size);
            sink(bytes, size);
        },
        call);
    if (const std::string got = hasher.digest(); got != layer.diff_id)
        throw Error(ErrorClass::kDataLoss,
                    "make the tar of layer " + layer.diff_id + ": its digest is " + got,
                    "gantry system check finds damaged layers, a pull makes them anew");
}

void Layers::forget_record(const std::string &diff_id) { impl_->records.remove(diff_id); }

std::vector<std::string> Layers::replaced() const {
    std::vector<std::string> out;
    impl_->db.transact([&](Db &t) {
        auto rows = t.prepare("SELECT id FROM layer WHERE driver=? AND state='removing' AND damaged<>''");
        rows.bind(1, impl_->name);
        while (rows.step())
            out.push_back(rows.text(0));
    });
    return out;
}

void Layers::recover() {
    std::vector<std::string> unfinished;
    std::set<std::string> known, recorded;
    std::map<std::string, std::string> retired;
    impl_->db.transact([&](Db &t) {
        // A writable layer without a container: the process died between the two.
        t.prepare("UPDATE layer SET state='removing' WHERE driver=? AND state='ready' AND chain_id IS NULL "
                  "AND NOT EXISTS(SELECT 1 FROM container c WHERE c.layer=layer.id) "
                  "AND NOT EXISTS(SELECT 1 FROM image i WHERE i.top_layer=layer.id) "
                  "AND NOT EXISTS(SELECT 1 FROM layer c WHERE c.parent=layer.id)")
            .bind(1, impl_->name)
            .run();
        auto rows = t.prepare("SELECT id,state,damaged FROM layer WHERE driver=?");
        rows.bind(1, impl_->name);
        while (rows.step()) {
            if (rows.text(1) == "ready")
                known.insert(rows.text(0));
            else if (rows.text(1) == "removing" && !rows.text(2).empty())
                retired.emplace(rows.text(0), rows.text(2));
            else
                unfinished.push_back(rows.text(0));
        }
        auto diffs = t.prepare("SELECT DISTINCT diff_id FROM layer WHERE diff_id<>''");
        while (diffs.step())
            recorded.insert(diffs.text(0));
    });
    for (const auto &[old, now] : retired) {
        if (impl_->in_use_below(now))
            known.insert(old);
        else
            unfinished.push_back(old);
    }
    impl_->records.keep_only(recorded);
    impl_->skeletons.keep_only(recorded);
    for (const std::string &id : unfinished) {
        log_info("undo unfinished layer {}", id);
        impl_->undo(id);
    }
    const CallScope scope;
    std::set<std::string> missing = known;
    for (const std::string &id : impl_->driver->list(scope)) {
        missing.erase(id);
        if (known.contains(id)) continue;
        log_info("remove unknown layer {} of storage driver {}", id, impl_->name);
        impl_->driver->remove(scope, id);
    }
    for (const std::string &id : missing)
        log_warn("layer {} is missing in storage driver {}", id, impl_->name);
}

} // namespace gantry
