// Pulls that ended early. The intent is a row with the digests and chain IDs of all parts, written before the
// first byte; the transaction that makes the image visible takes it away. As long as it stands the sweep
// spares the blobs and layers that are finished (partial blobs are the content store's), so that a pull which
// was killed or cancelled costs the next one only what had not come. Rows go with their age, or when asked
// for.
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/impl.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

namespace gantry {

Images::Impl::Pulling::Pulling(Impl &impl, std::string manifest, const std::set<std::string> &parts)
    : impl_(impl), manifest_(std::move(manifest)) {
    impl_.db.transact([&](Db &d) {
        d.prepare("INSERT INTO pull(manifest, begun) VALUES(?,?) ON CONFLICT(manifest) DO UPDATE SET "
                  "begun=excluded.begun")
            .bind_all(manifest_, wall_ns())
            .run();
        for (const std::string &part : parts)
            d.prepare("INSERT OR IGNORE INTO pull_part(pull, part) VALUES(?,?)")
                .bind_all(manifest_, part)
                .run();
    });
    const std::lock_guard lock(impl_.work_mutex);
    impl_.pulling.insert(manifest_);
}

Images::Impl::Pulling::~Pulling() {
    const std::lock_guard lock(impl_.work_mutex);
    impl_.pulling.erase(manifest_);
}

void Images::Impl::forget_expired_pulls() {
    db.transact([&](Db &d) {
        d.prepare("DELETE FROM pull WHERE begun < ?").bind(1, wall_ns() - config.partial_ttl_ns).run();
    });
}

void Images::Impl::make_room(const std::string &manifest) {
    const auto [free, all] = content.disk_space();
    if (free >= all / 10) return;
    content.drop_partials(all / 10);
    if (content.disk_space().first >= all / 10) return;
    db.transact([&](Db &d) { d.prepare("DELETE FROM pull WHERE manifest=?").bind(1, manifest).run(); });
    const std::lock_guard lock(work_mutex);
    sweep_wanted = true; // when the last work ends
}

uint64_t Images::Impl::drop_interrupted() {
    uint64_t freed = content.drop_partials();
    std::vector<std::string> idle;
    db.transact([&](Db &d) {
        auto rows = d.prepare("SELECT manifest FROM pull");
        const std::lock_guard lock(work_mutex);
        while (rows.step())
            if (!pulling.contains(rows.text(0))) idle.push_back(rows.text(0));
    });
    if (idle.empty()) return freed;
    for (const std::string &manifest : idle)
        db.transact([&](Db &d) { d.prepare("DELETE FROM pull WHERE manifest=?").bind(1, manifest).run(); });
    return freed + sweep();
}

std::vector<InterruptedDownload> Images::interrupted_of(const Impl &impl) {
    std::vector<InterruptedDownload> out;
    for (const PartialBlob &blob : impl.content.partials())
        out.push_back({blob.digest, blob.present, blob.size, blob.disk, blob.changed_ns, blob.active, false});
    impl.db.transact([&](Db &d) {
        // Finished layers that no image stands on yet.
        auto rows = d.prepare(
            "WITH RECURSIVE used(id) AS (SELECT top_layer FROM image WHERE top_layer IS NOT NULL UNION "
            "SELECT l.parent FROM layer l JOIN used u ON l.id=u.id WHERE l.parent IS NOT NULL) "
            "SELECT l.chain_id, l.size, l.created FROM layer l WHERE l.state='ready' AND l.chain_id IS NOT "
            "NULL "
            "AND l.id NOT IN (SELECT id FROM used) AND EXISTS(SELECT 1 FROM pull_part p WHERE "
            "p.part=l.chain_id)");
        while (rows.step()) {
            const auto size = static_cast<uint64_t>(rows.integer(1));
            out.push_back({rows.text(0), size, size, size, rows.integer(2), false, true});
        }
    });
    return out;
}

std::vector<InterruptedDownload> Images::interrupted() const { return interrupted_of(*impl_); }

} // namespace gantry
