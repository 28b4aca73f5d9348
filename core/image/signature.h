// Signatures of images as cosign writes them ("simple signing"): a payload names the digest of a manifest,
// and the base64 signature of the payload's bytes stands in an annotation beside it.
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
#pragma once

#include "core/image/manifest.h"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct evp_pkey_st;

namespace gantry {

constexpr size_t kMaxKeyFileBytes = 64 << 10;
constexpr size_t kMaxPayloadBytes = 128 << 10;
constexpr size_t kMaxSignatures = 64;         // looked at for one image
constexpr size_t kMaxSignatureManifests = 16; // of referrers

/// A key that images may be signed with: ECDSA on P-256 with SHA-256, or Ed25519. Immutable, cheap to copy,
/// thread-safe.
class PublicKey {
  public:
    /// All keys of a PEM text ("BEGIN PUBLIC KEY"). `name` is what people know them by. Throws
    /// kInvalidArgument without naming a place.
    static std::vector<PublicKey> parse(const std::string &pem, const std::string &name);

    const std::string &name() const { return name_; }
    const std::string &fingerprint() const { return fingerprint_; } // "sha256:..." of the DER form
    const char *algorithm() const { return ed25519_ ? "Ed25519" : "ECDSA P-256"; }
    /// `signature` is raw: ASN.1 DER for ECDSA, 64 bytes for Ed25519.
    bool verify(std::string_view message, std::string_view signature) const;

  private:
    std::shared_ptr<evp_pkey_st> key_;
    std::string name_, fingerprint_;
    bool ed25519_ = false;
};

/// What a signature says. Parse it only after its signature has been verified.
struct SignaturePayload {
    std::string digest;    // of the manifest or index that is signed
    std::string reference; // the name it was signed under; may be ""
};
/// Throws kInvalidArgument with the reason.
SignaturePayload parse_signature_payload(std::string_view json);

/// One signature in a manifest of signatures.
struct SignatureEntry {
    BlobRef payload;
    std::string signature; // raw bytes; "" when `problem` says why
    std::string problem;
};
/// At most kMaxSignatures; layers of other types are left out. Throws kInvalidArgument.
std::vector<SignatureEntry> parse_signature_manifest(std::string_view json);
/// The manifests in an index of referrers that may hold signatures, at most kMaxSignatureManifests.
std::vector<BlobRef> parse_signature_index(std::string_view json);

/// Standard alphabet with padding, nothing else; nullopt otherwise.
std::optional<std::string> decode_base64(std::string_view text);

/// Where signatures are looked for. Nothing that comes from it is trusted.
class SignatureStore {
  public:
    virtual ~SignatureStore() = default;
    /// The manifest that the tag means; nullopt when there is none.
    virtual std::optional<std::string> tagged(const std::string &tag) = 0;
    /// An index of what refers to `digest`; nullopt when there is none or it cannot be asked for.
    virtual std::optional<std::string> referrers(const std::string &digest) = 0;
    /// Bytes that have the blob's digest, at most `limit`.
    virtual std::string blob(const BlobRef &blob, bool is_manifest, size_t limit) = 0;
};

} // namespace gantry
