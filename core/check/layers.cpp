// Layers: rows against directories, chains, and with --deep every file against the layer's record. A layer
// that is found damaged is marked, so that nothing new is built on it and the next pull makes it anew; where
// its compressed form is retained that is done here. The new one takes the old one's place below all images
// and containers.
#include "core/check/checker.h"
#include "core/content/content.h"
#include "core/layer/layers.h"
#include "core/layer/record.h"
#include "core/store/db.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <unistd.h>

namespace gantry::check {
namespace {

constexpr char kArea[] = "layers";

/// Names (or ids) of images that stand on the layer.
std::string images_on(Db &db, const std::string &id) {
    std::string out;
    db.transact([&](Db &t) {
        auto row =
            t.prepare("WITH RECURSIVE above(id) AS (SELECT ?1 UNION SELECT l.id FROM layer l JOIN above "
                      "ON l.parent=above.id) SELECT ifnull((SELECT n.repository||':'||n.tag FROM "
                      "image_name n WHERE n.image=i.id LIMIT 1), substr(i.id,8,12)) FROM image i "
                      "WHERE i.top_layer IN (SELECT id FROM above) LIMIT 5");
        row.bind(1, id);
        while (row.step())
            out += (out.empty() ? "" : ", ") + row.text(0);
    });
    return out;
}

ByteSource source_of(int fd, const std::string &digest) {
    return [fd, digest](void *out, size_t size) {
        for (;;) {
            const ssize_t n = ::read(fd, out, size);
            if (n >= 0) return static_cast<size_t>(n);
            if (errno != EINTR) throw Error::from_errno(errno, "read blob " + digest);
        }
    };
}

class LayerCheck {
  public:
    explicit LayerCheck(Checker &c) : c_(c), layers_(*c.parts.layers) {}

    void run() {
        strays();
        unfinished();
        const std::vector<std::string> gone = layers_.missing();
        const std::set<std::string> missing(gone.begin(), gone.end());
        for (const std::string &id : base_first()) {
            c_.call.check("check layers");
            try {
                one(layers_.get(id), missing.contains(id));
            } catch (const Error &error) {
                if (error.error_class() == ErrorClass::kCancelled) throw;
                if (error.error_class() != ErrorClass::kNotFound) // else removed or replaced meanwhile
                    c_.problem(kArea, id, error.message(), error.hint());
            }
        }
        for (const std::string &id : layers_.replaced())
            c_.notice(kArea, id, "was replaced, and goes when the containers that run on it have stopped");
        records();
    }

  private:
    std::vector<std::string> base_first() const {
        std::map<std::string, std::string> parent;
        for (const Layer &l : layers_.list())
            parent.emplace(l.id, l.parent);
        std::vector<std::string> out;
        std::set<std::string> done;
        for (const auto &[id, unused] : parent) {
            std::vector<std::string> way;
            for (auto it = parent.find(id); it != parent.end() && done.insert(it->first).second;
                 it = parent.find(it->second))
                way.push_back(it->first);
            out.insert(out.end(), way.rbegin(), way.rend());
        }
        return out;
    }

    void strays() {
        const auto found = twice([&] {
            const auto list = layers_.unknown();
            return std::set<std::string>(list.begin(), list.end());
        });
        for (const std::string &id : found)
            c_.problem(kArea, id, "is on disk and not in the database", "", [&] {
                layers_.remove_unknown(id);
                return std::string("removed");
            });
    }
    /// Nobody works on layers during a repair (the gate is closed): what is unfinished then stays so.
    void unfinished() {
        if (!c_.options.repair) return;
        std::set<std::string> rows;
        c_.parts.db->transact([&](Db &t) {
            auto row =
                t.prepare("SELECT id FROM layer WHERE state='making' OR (state='removing' AND damaged='')");
            while (row.step())
                rows.insert(row.text(0));
        });
        for (const std::string &id : rows)
            c_.problem(kArea, id, "was neither finished nor removed", "", [&] {
                layers_.remove_unfinished(id);
                return std::string("removed");
            });
    }

    void one(const Layer &layer, bool missing) {
        ++c_.sum.layers;
        if (!layer.parent.empty() && !layer.chain_id.empty()) {
            const Layer parent = layers_.get(layer.parent);
            if (chain_id_of(parent.chain_id, layer.diff_id) != layer.chain_id)
                c_.problem(kArea, layer.id, "stands on another layer than its chain ID says");
        }
        if (missing) return damaged(layer, "is missing on disk");
        try {
            layers_.own_tree(layer.id);
            mount_detached(layers_.mounts(layer.id, true));
        } catch (const Error &error) {
            return damaged(layer, "cannot be mounted: " + error.message());
        }
        if (layer.chain_id.empty()) return; // a container's: it may hold anything
        if (!c_.options.deep) {
            if (!layer.damaged.empty()) damaged(layer, layer.damaged);
            return;
        }
        const LayerVerdict verdict = verify(layer);
        c_.sum.files += verdict.entries;
        c_.sum.bytes += verdict.bytes;
        if (verdict.damaged > 0) {
            std::string text;
            for (const std::string &one : verdict.first)
                text += (text.empty() ? "" : "; ") + one;
            if (verdict.damaged > verdict.first.size())
                text += "; and " + std::to_string(verdict.damaged - verdict.first.size()) + " more";
            return damaged(layer, text);
        }
        if (!verdict.unrecorded.empty()) {
            c_.notice(kArea, layer.id, unrecorded(layer));
            if (!layer.damaged.empty()) damaged(layer, layer.damaged);
        } else if (!layer.damaged.empty()) {
            layers_.mark_damaged(layer.id, "");
            c_.notice(kArea, layer.id, "was found damaged before and is whole now");
        }
    }
    LayerVerdict verify(const Layer &layer) {
        try {
            return verify_layer(layers_, layers_.records(), layer.id, c_.call);
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kDataLoss) throw;
            LayerVerdict out; // the record is what is damaged
            out.unrecorded.push_back(layer.id);
            c_.problem(kArea, layer.id, error.message(), "", [&] {
                layers_.forget_record(layer.diff_id);
                return std::string("removed: the layer's files can no longer be compared");
            });
            return out;
        }
    }
    std::string unrecorded(const Layer &layer) {
        std::string text = "has no record of its files (it was made before there were any)";
        if (!layers_.independent()) return text + ": only that it can be mounted is known";
        const Usage now = layers_.count(layer.id);
        if (now.bytes != layer.size || now.inodes != layer.inodes)
            return text + "; it has " + std::to_string(now.bytes) + " bytes in " +
                   std::to_string(now.inodes) + " files, and had " + std::to_string(layer.size) + " in " +
                   std::to_string(layer.inodes);
        return text + "; number and size of its files are as noted";
    }

    void damaged(const Layer &layer, const std::string &what) {
        if (layer.chain_id.empty())
            return c_.problem(kArea, layer.id, "of a container " + what,
                              "its changes are lost; gantry export may save what can be read");
        layers_.mark_damaged(layer.id, what);
        const std::string images = images_on(*c_.parts.db, layer.id);
        const bool retained = !layer.blob_digest.empty() && c_.parts.content->has(layer.blob_digest);
        const std::string text = "(" + (images.empty() ? "of no image" : images) + ") " + what;
        if (retained) return c_.problem(kArea, layer.id, text, "", [&] { return restore(layer); });
        c_.problem(kArea, layer.id, text,
                   layer.blob_digest.empty()
                       ? "it was made on this machine (commit, import) and has no copy: make it again"
                       : "pull the image again: that makes the layer anew, and containers keep theirs");
    }
    std::string restore(const Layer &layer) {
        const UniqueFd blob = c_.parts.content->open(layer.blob_digest);
        const auto hold = layers_.hold();
        auto making = layers_.begin({layer.diff_id, layer.blob_digest, layer.blob_size}, layer.parent);
        making->unpack(source_of(blob.get(), layer.blob_digest), c_.call); // judges the diff ID
        const Layer now = making->finish(layer.parent);
        c_.parts.content->settle();
        return "made anew from the retained blob as " + now.id;
    }

    void records() {
        const auto stray = twice([&] {
            const auto list = layers_.stray_records();
            return std::set<std::string>(list.begin(), list.end());
        });
        for (const std::string &name : stray)
            c_.problem(kArea, "record " + name.substr(0, 19), "is of no layer", "", [&] {
                layers_.forget_record(name);
                return std::string("removed");
            });
    }

    Checker &c_;
    Layers &layers_;
};

} // namespace

void check_layers(Checker &c) { LayerCheck(c).run(); }

} // namespace gantry::check
