// save: several images as one archive, each blob once. Everything is looked up before the first byte, so that
// what cannot be written is said instead of half an archive.
#include "core/image/archive_writer.h"
#include "core/store/db.h"

#include <algorithm>

namespace gantry {
namespace {

struct Wanted {
    std::string id;
    std::vector<ImageReference> names;
};

/// Docker's rule: "repo:tag" is that name, "repo" every tag of it, an id the image without a name.
Wanted *wanted(std::vector<Wanted> &all, const std::string &id) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Wanted &w) { return w.id == id; });
    if (found != all.end()) return &*found;
    all.push_back({id, {}});
    return &all.back();
}

void add_name(Wanted &image, const ImageReference &name) {
    if (std::none_of(image.names.begin(), image.names.end(),
                     [&](const ImageReference &n) { return n.full() == name.full(); }))
        image.names.push_back(name);
}

} // namespace

void ImageTransfer::save(const std::vector<std::string> &names, ArchiveFormat format,
                         const std::function<void(const void *, size_t)> &archive,
                         const CancelSource &cancel) {
    if (names.empty()) throw Error(ErrorClass::kInvalidArgument, "save images: none is named");
    const Images::Impl::Work work(impl_);
    std::vector<Wanted> images;
    for (const std::string &name : names) {
        std::optional<ImageReference> ref;
        try {
            ref = parse_reference(name, impl_.config, false);
        } catch (const Error &) { // an id
        }
        bool found = false;
        if (ref && ref->tag.empty() && ref->digest.empty()) {
            std::vector<std::pair<std::string, std::string>> tags;
            impl_.db.transact([&](Db &d) {
                auto rows = d.prepare("SELECT tag, image FROM image_name WHERE registry=? AND repository=? "
                                      "ORDER BY tag");
                rows.bind_all(ref->registry, ref->repository);
                while (rows.step())
                    tags.emplace_back(rows.text(0), rows.text(1));
            });
            for (const auto &[tag, id] : tags) {
                ImageReference full = *ref;
                full.tag = tag;
                add_name(*wanted(images, id), full);
                found = true;
            }
        }
        if (found) continue;
        bool by_id = true;
        Wanted *image = wanted(images, impl_.find(name, &by_id));
        if (!by_id && ref && !ref->tag.empty() && ref->digest.empty()) add_name(*image, *ref);
    }

    std::vector<std::unique_ptr<ImageSource>> sources;
    std::vector<Manifest> manifests;
    std::vector<ArchiveEntry> entries;
    for (const Wanted &image : images) {
        sources.push_back(open_stored_image(impl_, image.id, cancel));
        manifests.push_back(parse_manifest(sources.back()->top(), sources.back()->top_blob().media_type));
        ArchiveEntry entry{sources.back()->top_blob(), image.names, "", manifests.back().config.digest, {}};
        for (const BlobRef &layer : manifests.back().layers)
            entry.layers.push_back(layer.digest);
        entries.push_back(std::move(entry));
    }
    ArchiveWriter out(archive, format, {});
    out.documents(entries);
    for (size_t i = 0; i < sources.size(); ++i) {
        const auto write = [&](const BlobRef &blob) {
            if (cancel.cancelled())
                throw Error(ErrorClass::kCancelled, "save images: cancelled by the caller");
            out.blob(blob, [&](const ByteSink &sink) { sources[i]->stream(blob, sink); });
        };
        out.blob(sources[i]->top_blob(),
                 [&](const ByteSink &sink) { sink(sources[i]->top().data(), sources[i]->top().size()); });
        write(manifests[i].config);
        for (const BlobRef &layer : manifests[i].layers)
            write(layer);
    }
    out.finish();
}

} // namespace gantry
