// Signatures through a registry driver: a mirror may serve them as well as the registry itself.
#include "core/content/content.h"
#include "core/image/download.h"
#include "core/image/trust.h"

#include <algorithm>

namespace gantry {
namespace {

constexpr int kMaxWrong = 3; // endpoints that served other bytes

std::string digest_as(const std::string &like, std::string_view bytes) {
    Hasher hasher(like.substr(0, like.find(':')));
    hasher.update(bytes.data(), bytes.size());
    return hasher.digest();
}

} // namespace

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
    if (blob.size > limit)
        throw Error(ErrorClass::kInvalidArgument, "fetch " + blob.digest + ": " + std::to_string(blob.size) +
                                                      " bytes are more than " + std::to_string(limit));
    Fetch fetch;
    fetch.from = from_;
    fetch.descriptor = {blob.media_type, blob.digest, blob.size, ""};
    fetch.credential = credential_;
    fetch.is_manifest = is_manifest;
    for (int wrong = 0;; ++wrong) {
        std::string bytes;
        std::vector<std::string> served;
        CallScope scope(cancelled_by(cancel_, short_digest(blob.digest)));
        registry_.fetch(scope, fetch,
                        [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
                            if (at != bytes.size() || bytes.size() + size > limit)
                                throw Error(ErrorClass::kDataLoss,
                                            "fetch " + blob.digest + ": more bytes than announced");
                            if (std::find(served.begin(), served.end(), endpoint) == served.end())
                                served.push_back(endpoint);
                            bytes.append(static_cast<const char *>(data), size);
                        });
        if (digest_as(blob.digest, bytes) == blob.digest) return bytes;
        if (wrong + 1 >= kMaxWrong || served.empty())
            throw Error(ErrorClass::kDataLoss, "fetch " + blob.digest + ": other bytes were served");
        fetch.avoid.push_back(served.front());
    }
}

} // namespace gantry
