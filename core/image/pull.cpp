// Pull: name -> manifest -> config -> layers -> one transaction. Everything before the transaction is
// invisible (layers are found by chain id alone and swept when no image wants them); everything that came
// over the network is verified by digest before it is parsed.
#include "core/content/content.h"
#include "core/image/blob_source.h"
#include "core/image/download.h"
#include "core/image/impl.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

namespace gantry {
namespace {

RegistryReference driver_reference(const ImageReference &ref) {
    return {ref.registry, ref.repository, ref.digest.empty() ? ref.tag : "", ref.digest};
}

/// The registry's answers in dockerd's words: its clients look for them.
[[noreturn]] void rethrow_resolve(const Error &error, const ImageReference &ref) {
    if (error.error_class() == ErrorClass::kNotFound)
        throw Error(ErrorClass::kNotFound,
                    "manifest for " + ref.familiar() + " not found: manifest unknown: " + error.message(),
                    error.hint());
    if (error.error_class() == ErrorClass::kPermissionDenied)
        throw Error(
            ErrorClass::kNotFound,
            "pull access denied for " + ref.familiar_name() +
                ", repository does not exist or may require 'docker login': denied: " + error.message(),
            error.hint());
    throw error;
}

void check_platform(const ImageInfo &info, const Platform &wanted, bool given, const ImageReference &ref) {
    if (!info.os.empty() && info.os != "linux")
        throw Error(ErrorClass::kUnsupported, "pull " + ref.familiar() + ": image operating system \"" +
                                                  info.os + "\" cannot be used on this platform");
    if (given && !info.architecture.empty() && info.architecture != wanted.architecture)
        throw Error(ErrorClass::kNotFound,
                    "image with reference " + ref.familiar() +
                        " was found but does not match the specified platform: wanted " + wanted.text() +
                        ", actual: linux/" + info.architecture);
}

} // namespace

PullAudience::Seat::Seat(PullAudience &owner, std::string image, const PullSink &sink)
    : owner_(owner), image_(std::move(image)), sink_(&sink) {
    std::lock_guard lock(owner_.mutex_);
    owner_.seats_.emplace(image_, sink_);
}

PullAudience::Seat::~Seat() {
    std::lock_guard lock(owner_.mutex_);
    auto [at, end] = owner_.seats_.equal_range(image_);
    while (at != end && at->second != sink_)
        ++at;
    if (at != end) owner_.seats_.erase(at);
}

void PullAudience::show(const std::string &image, const PullProgress &progress) {
    std::lock_guard lock(mutex_);
    auto [at, end] = seats_.equal_range(image);
    for (; at != end; ++at)
        (*at->second)(progress);
}

std::string Images::Impl::pull_one(const ImageReference &ref, const Platform &platform, bool platform_given,
                                   const std::optional<Credential> &credential, const CancelSource &cancel,
                                   const PullSink &sink) {
    LayerPullContext context{content,     layers,     *registry,   locks,
                             connections, bandwidth,  config,      driver_reference(ref),
                             credential,  max_unpack, retain_blobs};
    admit_name(ref, "pull"); // nobody is asked about what is refused anyhow
    const Work work(*this);

    // What does the name mean?
    Descriptor top;
    std::string body;
    try {
        CallScope scope(cancelled_by(cancel, ref.familiar()));
        top = registry->resolve(scope, context.from, credential, &body);
    } catch (const Error &error) {
        rethrow_resolve(error, ref);
    }
    const std::string wanted_digest = ref.digest.empty() ? top.digest : ref.digest;
    Hasher hasher(wanted_digest.substr(0, wanted_digest.find(':')));
    hasher.update(body.data(), body.size());
    if (const std::string got = hasher.digest(); got != wanted_digest)
        throw Error(ErrorClass::kDataLoss, "pull " + ref.familiar() + ": " + top.endpoint +
                                               " served a manifest " + got + " for " + wanted_digest);
    Manifest manifest = parse_manifest(body, top.media_type);
    BlobRef manifest_blob{manifest.media_type, wanted_digest, body.size()};
    bool repaired = content.has(wanted_digest) && content.size(wanted_digest) != body.size();
    content.put(body, manifest.media_type, wanted_digest);
    if (manifest.is_index) {
        manifest_blob = choose_platform(manifest, platform);
        manifest =
            parse_manifest(fetch_small(context, manifest_blob, true, kMaxManifestBytes, cancel, &repaired),
                           manifest_blob.media_type);
        if (manifest.is_index)
            throw Error(ErrorClass::kUnsupported, "pull " + ref.familiar() + ": an index within an index");
    }

    // Is it allowed to? Nothing of it is visible yet, and no layer was asked for.
    admit(ref, {wanted_digest, manifest_blob.digest}, "pull", credential, cancel);

    // The second pull of an image waits here, sees what the first does, and then finds everything done.
    const std::string turn = "image " + manifest_blob.digest;
    std::optional<PullAudience::Seat> seat;
    if (locks.held(turn)) {
        sink({ref.digest.empty() ? ref.tag : ref.digest, "Waiting for another pull of this image", 0, 0});
        seat.emplace(audience, turn, sink);
    }
    const auto only_one = locks.lock(turn, cancel);
    seat.reset();
    const PullSink shared = [&](const PullProgress &progress) {
        sink(progress);
        audience.show(turn, progress);
    };

    // What is in it?
    const std::string config_json =
        fetch_small(context, manifest.config, false, kMaxConfigBytes, cancel, &repaired);
    const ImageInfo info = parse_config(config_json);
    check_platform(info, platform, platform_given, ref);
    if (info.diff_ids.size() != manifest.layers.size())
        throw Error(ErrorClass::kInvalidArgument,
                    "pull " + ref.familiar() + ": the config names " + std::to_string(info.diff_ids.size()) +
                        " layers and the manifest " + std::to_string(manifest.layers.size()));
    std::vector<LayerPlan> plan;
    for (size_t i = 0; i < manifest.layers.size(); ++i)
        plan.push_back({manifest.layers[i], info.diff_ids[i],
                        chain_id_of(i ? plan[i - 1].chain_id : std::string(), info.diff_ids[i])});

    sink({ref.digest.empty() ? ref.tag : ref.digest, "Pulling from " + ref.repository, 0, 0});
    std::set<std::string> parts{wanted_digest, manifest_blob.digest, manifest.config.digest};
    for (const LayerPlan &layer : plan) {
        parts.insert(layer.blob.digest);
        parts.insert(layer.chain_id);
    }
    const Pulling pulling(*this, manifest_blob.digest, parts);
    std::string top_layer;
    try {
        top_layer = pull_layers(context, plan, cancel, shared, repaired);
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kNoSpace) make_room(manifest_blob.digest);
        throw;
    }

    // From here on the image is visible.
    Commit what;
    what.id = manifest.config.digest;
    what.manifest = manifest_blob.digest;
    what.config = config_json;
    what.top_layer = top_layer;
    what.created_ns = info.created_ns;
    if (!top_layer.empty())
        for (const auto &id : layers.lineage(top_layer))
            what.size += layers.get(id).size;
    what.ref = ref;
    what.ref->digest = wanted_digest;
    what.pull = manifest_blob.digest;
    if (!ref.digest.empty()) what.ref->tag.clear();
    const bool changed = commit(what);
    db.transact([&](Db &t) { note_origins(t, what.id, manifest.layers, {ref.registry, ref.repository}); });
    sink({"", "Digest: " + wanted_digest, 0, 0});
    publish("pull", ref.familiar(), ref.familiar_name());
    return changed    ? "Status: Downloaded newer image for " + ref.familiar()
           : repaired ? "Status: Repaired damaged image for " + ref.familiar()
                      : "Status: Image is up to date for " + ref.familiar();
}

void Images::pull(const ImageReference &ref, bool all_tags, const std::string &platform,
                  const std::optional<Credential> &credential, const CancelSource &cancel,
                  const PullSink &sink) {
    const Platform wanted = parse_platform(platform);
    std::vector<ImageReference> refs;
    if (ref.tag.empty() && ref.digest.empty() && all_tags) {
        std::vector<std::string> tags;
        try {
            CallScope scope(cancelled_by(cancel, ref.familiar()));
            tags = impl_->registry->tags(scope, driver_reference(ref), credential);
        } catch (const Error &error) {
            rethrow_resolve(error, ref);
        }
        for (const auto &tag : tags) {
            // A registry's list is untrusted too.
            refs.push_back(
                parse_reference(ref.registry + "/" + ref.repository + ":" + tag, ref.registry, false));
        }
        if (refs.empty()) throw Error(ErrorClass::kNotFound, "no tags found for " + ref.familiar());
    } else {
        refs.push_back(ref);
        if (ref.tag.empty() && ref.digest.empty()) refs.back().tag = "latest";
    }
    std::string status;
    for (const auto &one : refs)
        status = impl_->pull_one(one, wanted, !platform.empty(), credential, cancel, sink);
    sink({"", status, 0, 0});
}

} // namespace gantry
