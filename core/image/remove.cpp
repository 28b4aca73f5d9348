// docker rmi, rule for rule (moby daemon/images/image_delete.go): a name is taken away first, and the image
// goes with its last name. What a running container uses stays. With --force a stopped one lets go of its
// image; its own layer still holds the layers below, so it can be started all the same.
#include "core/image/impl.h"

#include "core/base/failpoint.h"
#include "core/base/log.h"
#include "core/events/events.h"
#include "core/image/download.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <algorithm>

namespace gantry {
namespace {

/// At most one tag, and everything in one repository.
bool is_single_reference(const std::vector<ImageReference> &refs) {
    if (refs.size() <= 1) return refs.size() == 1;
    int tags = 0;
    for (const auto &ref : refs) {
        tags += ref.tag.empty() ? 0 : 1;
        if (ref.registry != refs[0].registry || ref.repository != refs[0].repository) return false;
    }
    return tags <= 1;
}

[[noreturn]] void conflict(const std::string &id, bool hard, const std::string &why) {
    throw Error(ErrorClass::kFailedPrecondition,
                "conflict: unable to delete " + short_digest(id) +
                    (hard ? " (cannot be forced) - " : " (must be forced) - ") + why);
}

} // namespace

std::vector<Images::Impl::User> Images::Impl::users(const std::string &image) const {
    std::vector<User> out;
    db.transact([&](Db &d) {
        auto q = d.prepare("SELECT id, state FROM container WHERE image=?");
        q.bind(1, image);
        while (q.step()) {
            std::string state = q.text(1);
            std::erase(state, ' ');
            out.push_back({q.text(0), state.find("\"running\":true") != std::string::npos ||
                                          state.find("\"Running\":true") != std::string::npos});
        }
    });
    return out;
}

bool Images::Impl::has_children(const std::string &image) const {
    bool found = false;
    db.transact([&](Db &d) {
        auto q = d.prepare("SELECT 1 FROM image WHERE parent=? LIMIT 1");
        q.bind(1, image);
        found = q.step();
    });
    return found;
}

void Images::Impl::drop_name(const ImageReference &ref, const std::string &id, std::vector<Deleted> &out) {
    db.transact([&](Db &d) {
        if (ref.tag.empty()) {
            auto q = d.prepare(
                "DELETE FROM image_digest WHERE registry=? AND repository=? AND digest=? AND image=?");
            q.bind_all(ref.registry, ref.repository, ref.digest, id);
            q.run();
        } else {
            auto q =
                d.prepare("DELETE FROM image_name WHERE registry=? AND repository=? AND tag=? AND image=?");
            q.bind_all(ref.registry, ref.repository, ref.tag, id);
            q.run();
        }
    });
    publish("untag", id, id);
    out.push_back({shown(ref), ""});
}

/// False when something uses it meanwhile.
bool Images::Impl::drop_image(const std::string &id, bool prune_parents, std::vector<Deleted> &out) {
    std::string next = id;
    for (int depth = 0; !next.empty() && depth < 1024; ++depth) {
        const std::string image = next;
        next.clear();
        std::string parent, top;
        bool gone = false;
        std::vector<std::string> chains;
        try {
            db.transact([&](Db &d) {
                auto q = d.prepare("SELECT parent, top_layer FROM image WHERE id=?");
                q.bind(1, image);
                if (!q.step()) return;
                parent = q.text(0);
                top = q.text(1);
            });
            if (!top.empty())
                for (const auto &layer : layers.lineage(top))
                    chains.push_back(layers.get(layer).chain_id);
            db.transact([&](Db &d) {
                // In one statement: a name that was given meanwhile keeps the image.
                auto q = d.prepare("DELETE FROM image WHERE id=?1 "
                                   "AND NOT EXISTS(SELECT 1 FROM container WHERE image=?1) "
                                   "AND NOT EXISTS(SELECT 1 FROM image_name WHERE image=?1) "
                                   "AND NOT EXISTS(SELECT 1 FROM image_digest WHERE image=?1) "
                                   "AND NOT EXISTS(SELECT 1 FROM image AS child WHERE child.parent=?1)");
                q.bind(1, image);
                q.run();
                gone = d.changes() > 0;
            });
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kFailedPrecondition) throw;
        }
        if (!gone) return depth > 0;
        failpoint("image.removed");
        publish("delete", image, image);
        out.push_back({"", image});
        sweep();
        for (const auto &chain : chains)
            if (!layers.find(chain)) out.push_back({"", chain});
        if (prune_parents && !parent.empty() && names(parent).empty() && !has_children(parent) &&
            users(parent).empty())
            next = parent;
    }
    return true;
}

std::vector<Deleted> Images::remove(const std::string &name, bool force, bool prune_parents) {
    std::vector<Deleted> out;
    bool by_id = false;
    const std::string id = impl_->find(name, &by_id);
    std::vector<ImageReference> refs = impl_->names(id);
    const auto users = impl_->users(id);

    bool quiet = false; // a name went: what keeps the image is then no error
    if (!by_id) {
        if (!force && is_single_reference(refs) && !users.empty())
            throw Error(ErrorClass::kFailedPrecondition,
                        "conflict: unable to remove repository reference \"" + name +
                            "\" (must force) - container " + users.front().id.substr(0, 12) +
                            " is using its referenced image " + short_digest(id));
        ImageReference ref = parse_reference(name, impl_->config, true);
        if (!ref.digest.empty()) ref.tag.clear();
        impl_->drop_name(ref, id, out);
        refs = impl_->names(id);
        const auto same_repository = [&](const ImageReference &r) {
            return r.registry == ref.registry && r.repository == ref.repository;
        };
        // Digests of a repository whose last tag went would keep the image without a visible name.
        const bool tag_left = std::any_of(refs.begin(), refs.end(), [&](const ImageReference &r) {
            return same_repository(r) && !r.tag.empty();
        });
        if (!ref.tag.empty() && !tag_left)
            for (const auto &r : refs)
                if (same_repository(r)) impl_->drop_name(r, id, out);
        if (!impl_->names(id).empty()) return out;
        quiet = true;
    }
    if (impl_->has_children(id)) {
        if (quiet) return out;
        conflict(id, true, "image has dependent child images");
    }
    for (const auto &user : users) {
        if (quiet || (force && !user.running)) continue;
        if (user.running)
            conflict(id, true, "image is being used by running container " + user.id.substr(0, 12));
        conflict(id, false, "image is being used by stopped container " + user.id.substr(0, 12));
    }
    if (!quiet && !force && refs.size() > 0 && !is_single_reference(refs))
        conflict(id, false, "image is referenced in multiple repositories");
    if (!quiet)
        for (const auto &ref : refs)
            impl_->drop_name(ref, id, out);
    const bool in_use = std::any_of(users.begin(), users.end(), [](const auto &u) { return u.running; });
    if (force && !in_use) {
        impl_->db.transact([&](Db &d) {
            // Judged anew: one that was started meanwhile keeps the image.
            d.prepare("UPDATE container SET image = NULL WHERE image = ?1"
                      " AND instr(replace(state, ' ', ''), '\"running\":true') = 0")
                .bind(1, id)
                .run();
        });
    }
    impl_->drop_image(id, prune_parents, out);
    return out;
}

std::vector<Deleted> Images::prune(bool dangling_only, uint64_t &reclaimed) {
    reclaimed = 0;
    std::vector<Deleted> out;
    for (const auto &image : list()) {
        if (dangling_only && !image.repo_tags.empty()) continue;
        if (!impl_->users(image.id).empty() || impl_->has_children(image.id)) continue;
        try {
            for (const auto &ref : impl_->names(image.id))
                impl_->drop_name(ref, image.id, out);
            if (impl_->drop_image(image.id, true, out)) reclaimed += image.size;
        } catch (const Error &error) {
            log_warn("prune image {}: {}", image.id, error.message());
        }
    }
    reclaimed += impl_->drop_interrupted();
    return out;
}

} // namespace gantry
