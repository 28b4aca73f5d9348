// The cryptography is OpenSSL's EVP and nothing else. What is verified are the payload's bytes as they were
// fetched; they are parsed afterwards, so that unsigned JSON never decides anything.
#include "core/image/signature.h"

#include "core/content/content.h"
#include "core/image/documents.h"

#include <boost/json.hpp>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>

namespace gantry {
namespace {

namespace json = boost::json;

const char *const kPayloadType = "application/vnd.dev.cosign.simplesigning.v1+json";
const char *const kArtifactType = "application/vnd.dev.cosign.artifact.sig.v1+json";
const char *const kSignatureKey = "dev.cosignproject.cosign/signature";
const char *const kCritical = "cosign container image signature";
constexpr size_t kMaxSignatureText = 1024; // base64; a P-256 signature has 72 bytes at most
constexpr size_t kMaxKeysInFile = 16;
const char *const kUnreadable = "no PEM block \"PUBLIC KEY\" that can be read";

constexpr size_t kMaxDepth = 16; // of a document

struct FreeBio {
    void operator()(BIO *bio) const { BIO_free(bio); }
};
struct FreeContext {
    void operator()(EVP_MD_CTX *context) const { EVP_MD_CTX_free(context); }
};

[[noreturn]] void bad(const std::string &what, const std::string &why) { bad_document(what, why); }

const json::array &array_of(const json::object &object, std::string_view key, const std::string &what) {
    const auto *value = object.if_contains(key);
    if (!value || !value->is_array()) bad(what, "no list \"" + std::string(key) + "\"");
    return value->get_array();
}

/// nullopt for what no client could ask for.
std::optional<BlobRef> blob_of(const json::object &o, size_t limit) {
    BlobRef out{text_of(&o, "mediaType"), text_of(&o, "digest"), 0};
    try {
        check_digest(out.digest);
    } catch (const Error &) {
        return std::nullopt;
    }
    const auto *size = o.if_contains("size");
    if (!size || !size->is_int64() || size->get_int64() <= 0 ||
        static_cast<uint64_t>(size->get_int64()) > limit)
        return std::nullopt;
    out.size = static_cast<uint64_t>(size->get_int64());
    return out;
}

std::string fingerprint_of(EVP_PKEY *key) {
    unsigned char *der = nullptr;
    const int size = i2d_PUBKEY(key, &der);
    if (size <= 0) bad("public key", "it cannot be encoded");
    const std::string out =
        sha256_of(std::string_view(reinterpret_cast<const char *>(der), static_cast<size_t>(size)));
    OPENSSL_free(der);
    return out;
}

/// The next block of a PEM text; nullptr at its end. A block that cannot be read must not shorten the list
/// in silence.
std::shared_ptr<EVP_PKEY> next_key(BIO *bio) {
    char *label = nullptr, *header = nullptr;
    unsigned char *der = nullptr;
    long size = 0;
    if (PEM_read_bio(bio, &label, &header, &der, &size) != 1) {
        const bool ended = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
        ERR_clear_error();
        if (!ended) bad("public key", kUnreadable);
        return nullptr;
    }
    const unsigned char *at = der;
    const bool is_public = std::string_view(label) == PEM_STRING_PUBLIC;
    std::shared_ptr<EVP_PKEY> key(is_public ? d2i_PUBKEY(nullptr, &at, size) : nullptr, EVP_PKEY_free);
    const bool whole = key && at == der + size;
    OPENSSL_free(label);
    OPENSSL_free(header);
    OPENSSL_free(der);
    ERR_clear_error();
    if (!whole) bad("public key", kUnreadable);
    return key;
}

bool is_p256(EVP_PKEY *key) {
    char group[80] = "";
    size_t size = 0;
    return EVP_PKEY_is_a(key, "EC") == 1 &&
           EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof group, &size) == 1 &&
           std::string_view(group) == "prime256v1";
}

} // namespace

std::vector<PublicKey> PublicKey::parse(const std::string &pem, const std::string &name) {
    if (pem.size() > kMaxKeyFileBytes) bad("public key", "the file is larger than 64 KiB");
    if (pem.find("PRIVATE KEY-----") != std::string::npos)
        throw Error(ErrorClass::kInvalidArgument, "read public key: this is a private key",
                    "openssl pkey -in KEY -pubout writes the public one");
    const std::unique_ptr<BIO, FreeBio> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    if (!bio) bad("public key", "out of memory");
    std::vector<PublicKey> out;
    while (auto raw = next_key(bio.get())) {
        PublicKey key;
        key.key_ = std::move(raw);
        key.name_ = name;
        key.ed25519_ = EVP_PKEY_is_a(key.key_.get(), "ED25519") == 1;
        if (!key.ed25519_ && !is_p256(key.key_.get())) {
            const char *type = EVP_PKEY_get0_type_name(key.key_.get());
            bad("public key", std::string("a key of type ") + (type ? type : "unknown") +
                                  " cannot be used: only ECDSA on P-256 and Ed25519 can");
        }
        key.fingerprint_ = fingerprint_of(key.key_.get());
        out.push_back(std::move(key));
        if (out.size() > kMaxKeysInFile) bad("public key", "more than 16 keys in one file");
    }
    if (out.empty()) bad("public key", kUnreadable);
    return out;
}

bool PublicKey::verify(std::string_view message, std::string_view signature) const {
    const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
    const bool good =
        context &&
        EVP_DigestVerifyInit(context.get(), nullptr, ed25519_ ? nullptr : EVP_sha256(), nullptr,
                             key_.get()) == 1 &&
        EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char *>(signature.data()),
                         signature.size(), reinterpret_cast<const unsigned char *>(message.data()),
                         message.size()) == 1;
    ERR_clear_error();
    return good;
}

SignaturePayload parse_signature_payload(std::string_view text) {
    const std::string what = "signature payload";
    const json::object document = parse_document(text, kMaxPayloadBytes, what, kMaxDepth);
    const json::object *critical = object_of(&document, "critical");
    if (const std::string type = text_of(critical, "type"); type != kCritical)
        bad(what, "its type is \"" + type.substr(0, 80) + "\", not \"" + kCritical + "\"");
    SignaturePayload out;
    out.digest = text_of(object_of(critical, "image"), "docker-manifest-digest");
    out.reference = text_of(object_of(critical, "identity"), "docker-reference");
    try {
        check_digest(out.digest);
    } catch (const Error &) {
        bad(what, "it names no digest");
    }
    return out;
}

std::vector<SignatureEntry> parse_signature_manifest(std::string_view text) {
    const std::string what = "manifest of signatures";
    const json::object document = parse_document(text, kMaxManifestBytes, what, kMaxDepth);
    if (document.contains("manifests")) bad(what, "it is an index");
    std::vector<SignatureEntry> out;
    for (const json::value &item : array_of(document, "layers", what)) {
        const json::object *layer = item.if_object();
        if (!layer || text_of(layer, "mediaType") != kPayloadType) continue;
        if (out.size() == kMaxSignatures) break;
        SignatureEntry entry;
        const std::string base64 = text_of(object_of(layer, "annotations"), kSignatureKey);
        std::optional<std::string> raw;
        if (base64.size() <= kMaxSignatureText) raw = decode_base64(base64);
        if (auto payload = blob_of(*layer, kMaxPayloadBytes))
            entry.payload = std::move(*payload);
        else
            entry.problem = "the digest or size of its payload is bad";
        if (base64.empty())
            entry.problem = "it has no signature beside its payload";
        else if (!raw || raw->empty())
            entry.problem = "its signature is not base64";
        else
            entry.signature = std::move(*raw);
        if (!entry.problem.empty()) entry.signature.clear();
        out.push_back(std::move(entry));
    }
    return out;
}

std::vector<BlobRef> parse_signature_index(std::string_view text) {
    const std::string what = "index of referrers";
    const json::object document = parse_document(text, kMaxManifestBytes, what, kMaxDepth);
    const json::array &list = array_of(document, "manifests", what);
    if (list.size() > kMaxIndexEntries) bad(what, "too many entries");
    std::vector<BlobRef> out;
    for (const json::value &item : list) {
        const json::object *entry = item.if_object();
        if (!entry || out.size() == kMaxSignatureManifests) continue;
        const std::string type = text_of(entry, "artifactType");
        if (type != kArtifactType && type != kPayloadType) continue;
        if (auto blob = blob_of(*entry, kMaxManifestBytes)) out.push_back(std::move(*blob));
    }
    return out;
}

std::optional<std::string> decode_base64(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    const size_t end = std::min(text.find('='), text.size());
    if (text.size() - end > 2 || text.find_first_not_of('=', end) != text.npos) return std::nullopt;
    std::string out;
    uint32_t bits = 0;
    int held = 0;
    for (const char c : text.substr(0, end)) {
        const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                          : c >= 'a' && c <= 'z' ? c - 'a' + 26
                          : c >= '0' && c <= '9' ? c - '0' + 52
                          : c == '+'             ? 62
                          : c == '/'             ? 63
                                                 : -1;
        if (value < 0) return std::nullopt;
        bits = (bits << 6) | static_cast<uint32_t>(value);
        held += 6;
        if (held >= 8) {
            held -= 8;
            out += static_cast<char>((bits >> held) & 0xff);
        }
    }
    return out;
}

} // namespace gantry
