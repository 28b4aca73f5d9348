// copy: manifests decide what belongs to the image, blobs go first, each once, the name last. Nothing is
// unpacked and no manifest is rewritten; only several chosen platforms of an index make a new, smaller
// index (registries refuse one that names what they lack).
#include "core/base/log.h"
#include "core/content/content.h"
#include "core/image/archive_writer.h"
#include "core/image/download.h"

#include <boost/json.hpp>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace gantry {
namespace {

namespace json = boost::json;

constexpr int kMaxDepth = 3; // of indexes in indexes

struct CopyPlan {
    std::vector<std::pair<BlobRef, std::string>> manifests; // with their bytes; the top one last
    std::vector<BlobRef> blobs;                             // each once
    Manifest image;                                         // of the one platform, where there is only one
};

void add_blob(CopyPlan &plan, const BlobRef &blob) {
    if (std::none_of(plan.blobs.begin(), plan.blobs.end(),
                     [&](const BlobRef &b) { return b.digest == blob.digest; }))
        plan.blobs.push_back(blob);
}

void add_image(CopyPlan &plan, ImageSource &source, const BlobRef &blob, const std::string &bytes,
               int depth) {
    const Manifest manifest = parse_any_manifest(bytes, blob.media_type);
    if (manifest.is_index) {
        if (depth >= kMaxDepth)
            throw Error(ErrorClass::kUnsupported, "copy image: indexes are nested too deeply");
        for (const IndexEntry &entry : manifest.entries)
            add_image(plan, source, entry.blob, source.manifest(entry.blob), depth + 1);
    } else {
        add_blob(plan, manifest.config);
        for (const BlobRef &layer : manifest.layers)
            add_blob(plan, layer);
        plan.image = manifest;
    }
    BlobRef ref = blob;
    ref.media_type = manifest.media_type;
    ref.size = bytes.size();
    plan.manifests.emplace_back(std::move(ref), bytes);
}

/// The entries of an index that were chosen, as they stand.
std::string smaller_index(const std::string &index, const std::vector<std::string> &digests) {
    json::value document = json::parse(index);
    json::array kept;
    for (json::value &entry : document.as_object()["manifests"].as_array())
        if (std::find(digests.begin(), digests.end(), entry.at("digest").as_string()) != digests.end())
            kept.push_back(std::move(entry));
    document.as_object()["manifests"] = std::move(kept);
    return json::serialize(document);
}

CopyPlan plan_copy(ImageSource &source, const CopyOptions &options) {
    CopyPlan plan;
    const Manifest top = parse_any_manifest(source.top(), source.top_blob().media_type);
    if (!top.is_index || options.all) {
        add_image(plan, source, source.top_blob(), source.top(), 0);
        return plan;
    }
    std::vector<BlobRef> chosen;
    Manifest there = top;
    std::erase_if(there.entries, [&](const IndexEntry &e) { return !source.has_manifest(e.blob); });
    for (const std::string &platform :
         options.platforms.empty() ? std::vector<std::string>{""} : options.platforms) {
        const BlobRef &found = choose_platform(there, parse_platform(platform));
        if (std::none_of(chosen.begin(), chosen.end(),
                         [&](const BlobRef &b) { return b.digest == found.digest; }))
            chosen.push_back(found);
    }
    std::vector<std::string> digests;
    for (const BlobRef &one : chosen) {
        add_image(plan, source, one, source.manifest(one), 1);
        digests.push_back(one.digest);
    }
    if (chosen.size() == 1) return plan;
    const std::string index = smaller_index(source.top(), digests);
    plan.manifests.emplace_back(BlobRef{top.media_type, sha256_of(index), index.size()}, index);
    return plan;
}

class Copy {
  public:
    Copy(ImageTransfer::Store &impl, ImageSource &source, CopyPlan plan, const CancelSource &cancel,
         const PullSink &sink)
        : impl_(impl), source_(source), plan_(std::move(plan)), cancel_(cancel), sink_(sink) {}

    CopyResult to_registry(const CopyEnd &to);
    CopyResult to_archive(const CopyEnd &to, const CopyOptions &options, const ByteSink &out);

  private:
    void say(const BlobRef &blob, const char *status, uint64_t at = 0, bool step = false) {
        std::lock_guard lock(mutex_);
        const int64_t now = Call::now_ns();
        if (step && now - last_line_ns_ < 100'000'000) return;
        last_line_ns_ = now;
        sink_({short_digest(blob.digest), status, at, at ? blob.size : 0});
    }
    void push_blob(const CopyEnd &to, const BlobRef &blob);

    ImageTransfer::Store &impl_;
    ImageSource &source_;
    CopyPlan plan_;
    const CancelSource &cancel_;
    const PullSink &sink_;
    std::mutex mutex_;
    int64_t last_line_ns_ = 0;
    CopyResult result_;
};

void Copy::push_blob(const CopyEnd &to, const BlobRef &blob) {
    Push push;
    push.to = {to.ref.registry, to.ref.repository, "", blob.digest};
    push.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    push.credential = to.credential;
    if (const auto from = source_.origin();
        from && from->registry == to.ref.registry && from->repository != to.ref.repository)
        push.mount_from = from->repository;
    UniqueFd file; // opened when the registry turns out to lack the blob
    bool sent = false, there = false, wanted = false;
    const auto send = [&] {
        CallScope scope(cancelled_by(cancel_));
        impl_.registry->push(scope, push, [&](uint64_t at, void *buffer, size_t size) {
            if (!file) {
                // Fetched outside of the call: one that shows no sign of life for long is given up.
                wanted = !source_.at_hand(blob);
                if (wanted) throw Error(ErrorClass::kUnavailable, "push " + blob.digest + ": fetch it first");
                file = source_.open(blob);
            }
            sent = true;
            ssize_t n = 0;
            do
                n = ::pread(file.get(), buffer, size, static_cast<off_t>(at));
            while (n < 0 && errno == EINTR);
            if (n < 0) throw Error::from_errno(errno, "read blob " + blob.digest);
            say(blob, "Copying", at + static_cast<uint64_t>(n), true);
            return static_cast<size_t>(n);
        });
    };
    try {
        try {
            send();
        } catch (const Error &) {
            if (!wanted) throw;
            file = source_.open(blob);
            push.mount_from.clear();
            send();
        }
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kAlreadyExists) throw;
        there = true;
    }
    there = there || !sent;
    say(blob, there ? "Already exists" : "Copied");
    std::lock_guard lock(mutex_);
    ++(there ? result_.skipped : result_.blobs);
    if (!there) result_.bytes += blob.size;
}

CopyResult Copy::to_registry(const CopyEnd &to) {
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    const auto worker = [&] {
        try {
            for (size_t i = next++; i < plan_.blobs.size() && !failed; i = next++)
                push_blob(to, plan_.blobs[i]);
        } catch (...) {
            std::lock_guard lock(mutex_);
            if (!error) error = std::current_exception();
            failed = true;
        }
    };
    {
        const size_t count = std::clamp<size_t>(impl_.config.max_parallel_downloads, 1, 8);
        std::vector<std::jthread> threads;
        for (size_t i = 1; i < std::min(count, plan_.blobs.size()); ++i)
            threads.emplace_back(worker);
        worker();
    }
    if (error) std::rethrow_exception(error);
    for (size_t i = 0; i < plan_.manifests.size(); ++i) {
        const auto &[blob, bytes] = plan_.manifests[i];
        const bool last = i + 1 == plan_.manifests.size();
        Push push;
        push.to = {to.ref.registry, to.ref.repository, last ? to.ref.tag : "", blob.digest};
        if (last && !to.ref.tag.empty()) push.to.digest.clear();
        push.descriptor = {blob.media_type, blob.digest, blob.size, ""};
        push.credential = to.credential;
        push.is_manifest = true;
        try {
            CallScope scope(cancelled_by(cancel_));
            impl_.registry->push(scope, push, [&bytes = bytes](uint64_t at, void *buffer, size_t size) {
                return at >= bytes.size() ? 0 : bytes.copy(static_cast<char *>(buffer), size, at);
            });
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kAlreadyExists) throw;
        }
    }
    result_.digest = plan_.manifests.back().first.digest;
    return result_;
}

CopyResult Copy::to_archive(const CopyEnd &to, const CopyOptions &options, const ByteSink &out) {
    const BlobRef &top = plan_.manifests.back().first;
    ArchiveEntry entry{top, {}, to.name, "", {}};
    if (options.format == ArchiveFormat::kDocker) {
        if (plan_.manifests.size() != 1)
            throw Error(ErrorClass::kUnsupported, "copy image: a docker-archive holds images of one platform",
                        "choose one with --platform, or copy to an oci-archive");
        if (!to.name.empty()) entry.names.push_back(parse_reference(to.name, "docker.io", true));
        entry.label.clear();
        entry.config = plan_.image.config.digest;
        for (const BlobRef &layer : plan_.image.layers)
            entry.layers.push_back(layer.digest);
    }
    ArchiveWriter writer(out, options.format, options.have);
    writer.documents({entry});
    for (const auto &[blob, bytes] : plan_.manifests)
        writer.blob(blob, [&bytes = bytes](const ByteSink &sink) { sink(bytes.data(), bytes.size()); });
    for (const BlobRef &blob : plan_.blobs) {
        if (cancel_.cancelled()) throw Error(ErrorClass::kCancelled, "copy image: cancelled by the caller");
        const bool written = writer.blob(blob, [&](const ByteSink &sink) { source_.stream(blob, sink); });
        ++(written ? result_.blobs : result_.skipped);
        if (written) result_.bytes += blob.size;
    }
    writer.finish();
    result_.digest = top.digest;
    return result_;
}

} // namespace

CopyResult ImageTransfer::copy(const CopyEnd &from, const CopyEnd &to, const CopyOptions &options,
                               const std::function<size_t(void *, size_t)> &in,
                               const std::function<void(const void *, size_t)> &out,
                               const CancelSource &cancel, const PullSink &sink) {
    for (const std::string &platform : options.platforms)
        parse_platform(platform);
    if (to.kind == CopyEnd::kStore) {
        if (options.all || options.platforms.size() > 1)
            throw Error(ErrorClass::kUnsupported,
                        "copy image: the local store keeps one platform of an image",
                        "choose one with --platform");
        const std::string platform = options.platforms.empty() ? "" : options.platforms[0];
        CopyResult result;
        if (from.kind == CopyEnd::kArchive) {
            const auto loaded = load(in, {platform, from.name, to.ref}, cancel, sink);
            result.digest = images_.get(loaded.at(0).id).manifest;
            return result;
        }
        if (from.kind == CopyEnd::kRegistry) {
            ImageReference ref = from.ref;
            if (ref.tag.empty() && ref.digest.empty()) ref.tag = "latest";
            images_.pull(ref, false, platform, from.credential, cancel, sink);
            if (ref.full() != to.ref.full()) images_.tag(ref.full(), to.ref);
            result.digest = images_.get(to.ref.full()).manifest;
            return result;
        }
        const ImageInfo image = images_.get(from.name);
        images_.tag(image.id, to.ref);
        result.digest = image.manifest;
        return result;
    }

    const Images::Impl::Work work(impl_);
    // Manifests of a copy belong to no image: the sweep behind the last work takes them.
    struct SweepAfter {
        ImageTransfer::Store &impl;
        ~SweepAfter() {
            std::lock_guard lock(impl.work_mutex);
            impl.sweep_wanted = true;
        }
    } const after{impl_};
    std::optional<ImageArchive> archive;
    std::unique_ptr<ImageSource> source;
    switch (from.kind) {
    case CopyEnd::kStore: source = open_stored_image(impl_, impl_.find(from.name), cancel); break;
    case CopyEnd::kRegistry:
        source = open_remote_image(impl_, from.ref, from.credential, cancel, sink);
        break;
    case CopyEnd::kArchive: {
        archive.emplace(impl_.content.make_spool());
        archive->spool(in, [&] {
            if (cancel.cancelled())
                throw Error(ErrorClass::kCancelled, "copy image: cancelled by the caller");
        });
        const auto images = selected(archive->images(), from.name);
        if (images.size() != 1)
            throw Error(ErrorClass::kInvalidArgument,
                        "copy image: the archive holds " + std::to_string(images.size()) + " images",
                        "say which one is meant, as in oci-archive:FILE:TAG");
        source = open_archived_image(*archive, images[0]);
        break;
    }
    }
    Copy copy(impl_, *source, plan_copy(*source, options), cancel, sink);
    return to.kind == CopyEnd::kRegistry ? copy.to_registry(to) : copy.to_archive(to, options, out);
}

} // namespace gantry
