// Signatures through a registry driver: a mirror may serve them as well as the registry itself.
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/fetch_whole.h"
#include "core/image/trust.h"

namespace gantry {
RegistrySignatures::RegistrySignatures(RegistryDriver &registry, const ImageReference &from,
                                       const std::optional<Credential> &credential,
                                       const CancelSource &cancel)
    : registry_(registry), from_{from.registry, from.repository, "", ""}, credential_(credential),
      cancel_(cancel) {}

std::optional<std::string> RegistrySignatures::tagged(const std::string &tag) {
    RegistryReference ref = from_;
    ref.tag = tag;
    std::string body;
    try {
        CallScope scope(cancelled_by(cancel_, tag));
        registry_.resolve(scope, ref, credential_, &body);
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kNotFound) return std::nullopt;
        throw;
    }
    return body;
}

std::optional<std::string> RegistrySignatures::referrers(const std::string &digest) {
    RegistryReference ref = from_;
    ref.digest = digest;
    try {
        CallScope scope(cancelled_by(cancel_, digest));
        return registry_.referrers(scope, ref, "", credential_);
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kNotFound || error.error_class() == ErrorClass::kUnsupported)
            return std::nullopt;
        throw;
    }
}

std::string RegistrySignatures::blob(const BlobRef &blob, bool is_manifest, size_t limit) {
    Fetch fetch;
    fetch.from = from_;
    fetch.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    fetch.credential = credential_;
    fetch.is_manifest = is_manifest;
    const CallScope scope(cancelled_by(cancel_, short_digest(blob.digest)));
    return fetch_document(registry_, fetch, limit, 3, scope);
}

} // namespace gantry
