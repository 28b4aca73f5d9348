// Names and lookups. An image is found by full id, then by name, then by an id prefix, in this order as
// dockerd does: a repository called "cafe" wins over an image whose id begins with cafe.
#include "core/image/images.h"

#include "core/base/failpoint.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/events/events.h"
#include "core/image/impl.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <algorithm>
#include <chrono>

namespace gantry {
namespace {

bool all_hex(std::string_view text) {
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

} // namespace

NamedLocks::Guard NamedLocks::lock(const std::string &name, const CancelSource &cancel) {
    std::unique_lock lock(mutex_);
    while (!held_.insert(name).second) {
        // Bounded wait: a cancellation signals a descriptor and not this condition.
        freed_.wait_for(lock, std::chrono::milliseconds(50));
        if (cancel.cancelled())
            throw Error(ErrorClass::kCancelled, "wait for another pull: cancelled by the caller");
    }
    return {*this, name};
}

NamedLocks::Guard::~Guard() {
    if (!owner_) return;
    std::lock_guard lock(owner_->mutex_);
    owner_->held_.erase(name_);
    owner_->freed_.notify_all();
}

Images::Impl::Work::Work(Impl &impl) : impl_(impl) {
    std::unique_lock lock(impl_.work_mutex);
    impl_.work_changed.wait(lock, [&] { return !impl_.sweeping; });
    ++impl_.at_work;
}

Images::Impl::Work::~Work() {
    {
        std::lock_guard lock(impl_.work_mutex);
        if (--impl_.at_work > 0 || !impl_.sweep_wanted) return;
    }
    try {
        impl_.sweep();
    } catch (const std::exception &error) {
        log_warn("sweep layers: {}", error.what());
    }
}

uint64_t Images::Impl::sweep() {
    {
        std::unique_lock lock(work_mutex);
        work_changed.wait(lock, [&] { return !sweeping; });
        if (at_work > 0) {
            sweep_wanted = true;
            return 0;
        }
        sweeping = true;
        sweep_wanted = false;
    }
    struct Done {
        Impl &impl;
        ~Done() {
            std::lock_guard lock(impl.work_mutex);
            impl.sweeping = false;
            impl.work_changed.notify_all();
        }
    } done{*this};
    return sweep_now();
}

uint64_t Images::Impl::sweep_now() {
    forget_expired_pulls();
    const uint64_t freed = layers.sweep();
    // Manifests and configs that no image refers to. Layer blobs go too unless they are to be retained.
    std::set<std::string> wanted;
    db.transact([&](Db &d) {
        auto images = d.prepare("SELECT id, manifest, config FROM image");
        while (images.step()) {
            wanted.insert(images.text(0));
            wanted.insert(images.text(1));
        }
        auto digests = d.prepare("SELECT digest FROM image_digest");
        while (digests.step())
            wanted.insert(digests.text(0));
        auto parts = d.prepare("SELECT part FROM pull_part");
        while (parts.step())
            wanted.insert(parts.text(0));
        auto blobs = d.prepare("SELECT blob_digest FROM layer WHERE blob_digest <> ''");
        while (retain_blobs && blobs.step())
            wanted.insert(blobs.text(0));
    });
    for (const auto &digest : content.list())
        if (!wanted.contains(digest)) content.remove(digest);
    return freed;
}

std::string Images::Impl::find(const std::string &name, bool *by_id) const {
    if (by_id) *by_id = true;
    const bool prefixed = name.starts_with("sha256:");
    const std::string hex = prefixed ? name.substr(7) : name;
    std::string found;
    const bool hex_only = !hex.empty() && hex.size() <= 64 && all_hex(hex);
    if (hex_only && hex.size() == 64)
        db.transact([&](Db &d) {
            auto q = d.prepare("SELECT id FROM image WHERE id = ?");
            q.bind(1, "sha256:" + hex);
            if (q.step()) found = q.text(0);
        });
    if (!found.empty()) return found;

    if (!prefixed) {
        std::optional<ImageReference> ref;
        try {
            ref = parse_reference(name, config, true);
        } catch (const Error &) { // still may be an id
            if (!hex_only) throw;
        }
        if (ref)
            db.transact([&](Db &d) {
                if (!ref->digest.empty()) {
                    auto q = d.prepare(
                        "SELECT image FROM image_digest WHERE registry=? AND repository=? AND digest=?");
                    q.bind_all(ref->registry, ref->repository, ref->digest);
                    if (q.step()) found = q.text(0);
                    return;
                }
                auto q =
                    d.prepare("SELECT image FROM image_name WHERE registry=? AND repository=? AND tag=?");
                q.bind_all(ref->registry, ref->repository, ref->tag);
                if (q.step()) found = q.text(0);
            });
        if (!found.empty()) {
            if (by_id) *by_id = false;
            return found;
        }
    }
    if (hex_only) {
        bool ambiguous = false;
        db.transact([&](Db &d) {
            auto q = d.prepare("SELECT id FROM image WHERE id >= ? AND id < ? LIMIT 2");
            q.bind_all("sha256:" + hex, "sha256:" + hex + "g");
            if (q.step()) found = q.text(0);
            ambiguous = !found.empty() && q.step();
        });
        if (ambiguous)
            throw Error(ErrorClass::kInvalidArgument,
                        "ambiguous image id: " + name + " is a prefix of several", "give more digits");
        if (!found.empty()) return found;
    }
    std::string shown = name;
    if (!prefixed && name.find('@') == std::string::npos &&
        (name.find(':') == std::string::npos || name.rfind(':') < name.rfind('/') + 1))
        shown = name.rfind('/') == std::string::npos && name.find(':') != std::string::npos
                    ? name
                    : name + ":latest";
    throw Error(ErrorClass::kNotFound, "No such image: " + shown);
}

std::vector<ImageReference> Images::Impl::names(const std::string &id) const {
    std::vector<ImageReference> out;
    db.transact([&](Db &d) {
        auto tags = d.prepare("SELECT registry, repository, tag FROM image_name WHERE image=?");
        tags.bind(1, id);
        while (tags.step())
            out.push_back({tags.text(0), tags.text(1), tags.text(2), ""});
        auto digests = d.prepare("SELECT registry, repository, digest FROM image_digest WHERE image=?");
        digests.bind(1, id);
        while (digests.step())
            out.push_back({digests.text(0), digests.text(1), "", digests.text(2)});
    });
    return out;
}

std::string Images::Impl::shown(const ImageReference &ref) const {
    const std::string familiar = ref.familiar();
    if (ref.registry != "docker.io") return familiar;
    if (config.default_registry == "docker.io" && config.short_names.empty()) return familiar;
    const ImageReference meant = parse_reference(familiar, config, false);
    const bool same = meant.registry == ref.registry && meant.repository == ref.repository;
    return same ? familiar : ref.full();
}

ImageInfo Images::Impl::load(const std::string &id) const {
    Row row;
    int64_t tagged = 0;
    db.transact([&](Db &d) {
        auto q = d.prepare("SELECT manifest, config, top_layer, parent, size, created FROM image WHERE id=?");
        q.bind(1, id);
        if (!q.step()) return;
        row = {id,           q.text(0), q.text(1), q.text(2), q.text(3), static_cast<uint64_t>(q.integer(4)),
               q.integer(5), 0};
        auto t = d.prepare("SELECT max(tagged) FROM image_name WHERE image=?");
        t.bind(1, id);
        if (t.step() && !t.is_null(0)) tagged = t.integer(0);
    });
    if (row.id.empty()) throw Error(ErrorClass::kNotFound, "No such image: " + id);
    ImageInfo out = parse_config(row.config);
    out.id = id;
    out.manifest = row.manifest;
    out.top_layer = row.top_layer;
    out.parent = row.parent;
    out.size = row.size;
    out.created_ns = row.created;
    out.tagged_ns = tagged;
    for (const auto &ref : names(id))
        (ref.tag.empty() ? out.repo_digests : out.repo_tags).push_back(shown(ref));
    return out;
}

bool Images::Impl::commit(const Commit &what) {
    bool changed = true;
    failpoint("image.unpublished");
    db.transact([&](Db &d) {
        const int64_t now = wall_ns();
        auto image =
            d.prepare("INSERT INTO image(id, manifest, config, top_layer, parent, size, created, added, "
                      "used) VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET used=excluded.used,"
                      "config=excluded.config,top_layer=excluded.top_layer,manifest=excluded.manifest");
        image.bind(1, what.id).bind(2, what.manifest).bind_blob(3, what.config);
        if (what.top_layer.empty())
            image.bind_null(4);
        else
            image.bind(4, what.top_layer);
        image.bind(5, what.parent).bind(6, static_cast<int64_t>(what.size)).bind(7, what.created_ns);
        image.bind(8, now).bind(9, now);
        image.run();
        if (!what.pull.empty()) d.prepare("DELETE FROM pull WHERE manifest=?").bind(1, what.pull).run();
        if (!what.ref) return;
        const ImageReference &ref = *what.ref;
        if (!ref.tag.empty()) {
            auto old = d.prepare("SELECT image FROM image_name WHERE registry=? AND repository=? AND tag=?");
            old.bind_all(ref.registry, ref.repository, ref.tag);
            changed = !old.step() || old.text(0) != what.id;
            if (changed) {
                auto put = d.prepare("INSERT INTO image_name(registry, repository, tag, image, tagged) "
                                     "VALUES(?,?,?,?,?) ON CONFLICT(registry, repository, tag) DO UPDATE SET "
                                     "image=excluded.image, tagged=excluded.tagged");
                put.bind_all(ref.registry, ref.repository, ref.tag, what.id, now);
                put.run();
            }
        }
        if (!ref.digest.empty()) {
            auto put =
                d.prepare("INSERT INTO image_digest(registry, repository, digest, image) VALUES(?,?,?,?) "
                          "ON CONFLICT(registry, repository, digest) DO UPDATE SET image=excluded.image "
                          "WHERE image <> excluded.image");
            put.bind_all(ref.registry, ref.repository, ref.digest, what.id);
            put.run();
            if (ref.tag.empty()) changed = d.changes() > 0;
        }
    });
    failpoint("image.published");
    content.settle(); // one sync for the rows of all blobs and layers before it too
    return changed;
}

void Images::Impl::publish(const char *action, const std::string &id, const std::string &name) const {
    Event event;
    event.type = "image";
    event.action = action;
    event.id = id;
    event.attributes["name"] = name;
    events.publish(std::move(event));
}

Images::Images(Db &db, ContentStore &content, Layers &layers, std::shared_ptr<RegistryDriver> registry,
               Events &events, const RegistryConfig &config, bool retain_blobs, uint32_t max_unpack,
               std::shared_ptr<const TrustPolicy> trust)
    : impl_(new Impl{db,
                     content,
                     layers,
                     std::move(registry),
                     events,
                     config,
                     retain_blobs,
                     max_unpack,
                     {},
                     {},
                     {},
                     0,
                     false,
                     false}) {
    impl_->trust = trust ? std::move(trust) : std::make_shared<const TrustPolicy>(TrustConfig());
}

Images::~Images() = default;

ImageInfo Images::get(const std::string &name) const { return impl_->load(impl_->find(name)); }

std::vector<ImageInfo> Images::list() const {
    std::vector<std::string> ids;
    impl_->db.transact([&](Db &d) {
        auto q = d.prepare("SELECT id FROM image ORDER BY created DESC, id");
        while (q.step())
            ids.push_back(q.text(0));
    });
    std::vector<ImageInfo> out;
    for (const auto &id : ids) {
        try {
            out.push_back(impl_->load(id));
        } catch (const Error &error) { // removed meanwhile
            if (error.error_class() != ErrorClass::kNotFound) throw;
        }
    }
    return out;
}

std::vector<HistoryEntry> Images::history(const std::string &name) const {
    const ImageInfo info = get(name);
    std::vector<uint64_t> sizes; // base first
    if (!info.top_layer.empty())
        for (const auto &layer : impl_->layers.lineage(info.top_layer))
            sizes.push_back(impl_->layers.get(layer).size);
    std::reverse(sizes.begin(), sizes.end());
    std::vector<HistoryEntry> out;
    size_t next = 0;
    for (const auto &h : parse_history(info.config_json)) {
        HistoryEntry entry{"<missing>", h.created_by, h.comment, h.created_ns, 0, {}};
        if (!h.empty_layer && next < sizes.size()) entry.size = sizes[next++];
        out.push_back(std::move(entry));
    }
    // Layers that the document's history does not mention are still there.
    for (; next < sizes.size(); ++next)
        out.push_back({"<missing>", "", "", info.created_ns, sizes[next], {}});
    std::reverse(out.begin(), out.end());
    if (out.empty()) out.push_back({"", "", info.comment, info.created_ns, 0, {}});
    out.front().id = info.id;
    out.front().tags = info.repo_tags;
    return out;
}

void Images::tag(const std::string &name, const ImageReference &to) {
    if (!to.digest.empty())
        throw Error(ErrorClass::kInvalidArgument, "refusing to create a tag with a digest reference");
    const std::string id = impl_->find(name);
    ImageReference ref = to;
    if (ref.tag.empty()) ref.tag = "latest";
    impl_->db.transact([&](Db &d) {
        auto put = d.prepare("INSERT INTO image_name(registry, repository, tag, image, tagged) "
                             "VALUES(?,?,?,?,?) ON CONFLICT(registry, repository, tag) DO UPDATE SET "
                             "image=excluded.image, tagged=excluded.tagged");
        put.bind_all(ref.registry, ref.repository, ref.tag, id, wall_ns());
        put.run();
    });
    impl_->publish("tag", id, ref.familiar());
}

void Images::mark_used(const std::string &id) {
    impl_->db.transact([&](Db &d) {
        auto q = d.prepare("UPDATE image SET used=? WHERE id=?");
        q.bind_all(wall_ns(), id);
        q.run();
    });
}

const RegistryConfig &Images::config() const { return impl_->config; }

void Images::recover() { impl_->sweep(); }

} // namespace gantry
