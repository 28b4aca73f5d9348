// Where the rules of trust meet images: what may get a name from outside, and `gantry image verify`.
#include "core/image/impl.h"

#include "core/content/content.h"
#include "core/image/download.h"

namespace gantry {
namespace {

/// What a reference means to its registry: the index, and the manifest that a pull would choose from it.
std::vector<std::string> resolve_digests(RegistryDriver &registry, const ImageReference &ref,
                                         const std::optional<Credential> &credential,
                                         const CancelSource &cancel) {
    std::string body;
    CallScope scope(cancelled_by(cancel, ref.familiar()));
    const RegistryReference from{ref.registry, ref.repository, ref.digest.empty() ? ref.tag : "", ref.digest};
    const Descriptor top = registry.resolve(scope, from, credential, &body);
    std::vector<std::string> out{ref.digest.empty() ? top.digest : ref.digest};
    Hasher hasher(out[0].substr(0, out[0].find(':')));
    hasher.update(body.data(), body.size());
    if (const std::string got = hasher.digest(); got != out[0])
        throw Error(ErrorClass::kDataLoss, "verify " + ref.familiar() + ": " + top.endpoint +
                                               " served a manifest " + got + " for " + out[0]);
    try {
        const Manifest manifest = parse_manifest(body, top.media_type);
        if (manifest.is_index) out.push_back(choose_platform(manifest, host_platform()).digest);
    } catch (const Error &) {
        // An artifact that is no image, or an image for other platforms: it has the one digest.
    }
    return out;
}

/// The client chose the credential by the name as it was written: an id or a short name may lead elsewhere.
std::optional<Credential> credential_for(const ImageVerification &what, const ImageReference &ref,
                                         const RegistryConfig &config) {
    const auto &credential = what.credential;
    if (!credential || credential->server == ref.registry) return credential;
    if (ref.registry == "docker.io" && credential->server == "https://index.docker.io/v1/") return credential;
    try {
        const ImageReference written = parse_reference(what.name, config.default_registry, false);
        if (written.registry == ref.registry && written.repository == ref.repository) return credential;
    } catch (const Error &) {
        // the id of an image
    }
    return std::nullopt;
}

TrustPolicy::Rule rule_of_keys(const ImageVerification &what) {
    TrustPolicy::Rule out;
    out.name = "--key";
    out.what.require = TrustRequire::kSignature;
    out.what.match = what.match;
    for (const auto &[name, pem] : what.keys) {
        try {
            for (PublicKey &key : PublicKey::parse(pem, name))
                out.keys.push_back(std::move(key));
        } catch (const Error &error) {
            throw Error(ErrorClass::kInvalidArgument, "key " + name + ": " + error.message(), error.hint());
        }
    }
    return out;
}

} // namespace

void Images::Impl::admit_name(const ImageReference &ref, const std::string &doing) const {
    const TrustPolicy::Rule &rule = trust->rule_for(ref);
    require_trust(judge_name(rule, ref), doing);
}

void Images::Impl::admit(const ImageReference &ref, const std::vector<std::string> &digests,
                         const std::string &doing, const std::optional<Credential> &credential,
                         const CancelSource &cancel) const {
    const TrustPolicy::Rule &rule = trust->rule_for(ref);
    if (rule.what.require != TrustRequire::kSignature) return require_trust(judge_name(rule, ref), doing);
    RegistrySignatures signatures(*registry, ref, credential, cancel);
    require_trust(judge_trust(rule, ref, digests, digests.empty() ? nullptr : &signatures), doing);
}

TrustReport Images::verify(const ImageVerification &what, const CancelSource &cancel) const {
    ImageReference ref;
    std::vector<std::string> digests;
    std::string id;
    bool by_id = false;
    try {
        id = impl_->find(what.name, &by_id);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kNotFound) throw;
    }
    if (id.empty() || !by_id) ref = parse_reference(what.name, impl_->config, true);
    if (id.empty()) {
        digests = resolve_digests(*impl_->registry, ref, credential_for(what, ref, impl_->config), cancel);
    } else {
        // Under which name was it pulled? By the digest of that repository, or of any when an id was given.
        const ImageInfo info = impl_->load(id);
        std::vector<ImageReference> pulled;
        for (const ImageReference &name : impl_->names(id))
            if (!name.digest.empty() &&
                (by_id || (name.registry == ref.registry && name.repository == ref.repository &&
                           (ref.digest.empty() || ref.digest == name.digest))))
                pulled.push_back(name);
        if (pulled.empty())
            throw Error(ErrorClass::kFailedPrecondition,
                        "verify image " + what.name +
                            ": no registry gave it to this host under this name, so it has no digest there",
                        "images that were committed, imported or only tagged here are not judged");
        const std::string tag = by_id ? "" : ref.tag;
        const std::string pinned = ref.digest;
        ref = pulled.front();
        for (const ImageReference &name : pulled)
            if (name.registry == ref.registry && name.repository == ref.repository)
                digests.push_back(name.digest);
        digests.push_back(info.manifest);
        ref.tag = tag;
        if (!by_id) ref.digest = pinned;
    }
    const auto credential = credential_for(what, ref, impl_->config);
    RegistrySignatures signatures(*impl_->registry, ref, credential, cancel);
    if (what.keys.empty()) return judge_trust(impl_->trust->rule_for(ref), ref, digests, &signatures);
    return judge_trust(rule_of_keys(what), ref, digests, &signatures);
}

const TrustPolicy &Images::trust() const { return *impl_->trust; }

} // namespace gantry
