// Keys and signatures made with OpenSSL alone, and a registry of signatures in memory.
#pragma once

#include "core/content/content.h"
#include "core/image/trust.h"

#include <map>
#include <memory>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdexcept>

namespace gantry {

struct TestKey {
    explicit TestKey(const char *type) {
        EVP_PKEY *raw = std::string(type) == "ed25519" ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")
                        : std::string(type) == "rsa"
                            ? EVP_PKEY_Q_keygen(nullptr, nullptr, "RSA", size_t(2048))
                            : EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", type);
        if (!raw) throw std::runtime_error("make key");
        key = {raw, EVP_PKEY_free};
    }
    template <typename Write> static std::string pem(const Write &write) {
        BIO *bio = BIO_new(BIO_s_mem());
        write(bio);
        char *text = nullptr;
        const long size = BIO_get_mem_data(bio, &text);
        std::string out(text, size_t(size));
        BIO_free(bio);
        return out;
    }
    std::string public_pem() const {
        return pem([&](BIO *bio) { PEM_write_bio_PUBKEY(bio, key.get()); });
    }
    std::string private_pem() const {
        return pem([&](BIO *bio) {
            PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
        });
    }
    std::string sign(const std::string &text) const {
        const bool ed25519 = EVP_PKEY_is_a(key.get(), "ED25519");
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        const auto *data = reinterpret_cast<const unsigned char *>(text.data());
        size_t size = 0;
        EVP_DigestSignInit(context, nullptr, ed25519 ? nullptr : EVP_sha256(), nullptr, key.get());
        EVP_DigestSign(context, nullptr, &size, data, text.size());
        std::string out(size, '\0');
        EVP_DigestSign(context, reinterpret_cast<unsigned char *>(out.data()), &size, data, text.size());
        out.resize(size);
        EVP_MD_CTX_free(context);
        return out;
    }
    std::shared_ptr<EVP_PKEY> key;
};

inline std::string encode_base64(const std::string &raw) {
    std::string out((raw.size() + 2) / 3 * 4 + 1, '\0');
    const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char *>(out.data()),
                                     reinterpret_cast<const unsigned char *>(raw.data()), int(raw.size()));
    out.resize(size_t(size));
    return out;
}

inline std::string payload_for(const std::string &digest, const std::string &reference) {
    return R"({"critical":{"identity":{"docker-reference":")" + reference +
           R"("},"image":{"docker-manifest-digest":")" + digest +
           R"("},"type":"cosign container image signature"},"optional":{"by":"a test"}})";
}

struct TestSignature {
    std::string payload, base64;
};

inline std::string signature_manifest(const std::vector<TestSignature> &signatures) {
    std::string layers;
    for (const TestSignature &one : signatures)
        layers += std::string(layers.empty() ? "" : ",") +
                  R"({"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":)" +
                  std::to_string(one.payload.size()) + R"(,"digest":")" + sha256_of(one.payload) +
                  R"(","annotations":{"dev.cosignproject.cosign/signature":")" + one.base64 + R"("}})";
    return R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",)"
           R"("config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":")" +
           sha256_of("{}") + R"("},"layers":[)" + layers + "]}";
}

/// Counts what it was asked for.
struct FakeSignatures : SignatureStore {
    std::map<std::string, std::string> tags, indexes, blobs;
    std::string outage; // the message of every answer
    int asked = 0;

    std::optional<std::string> tagged(const std::string &tag) override {
        ++asked;
        if (!outage.empty()) throw Error(ErrorClass::kUnavailable, outage);
        const auto found = tags.find(tag);
        return found == tags.end() ? std::nullopt : std::optional(found->second);
    }
    std::optional<std::string> referrers(const std::string &digest) override {
        ++asked;
        if (!outage.empty()) throw Error(ErrorClass::kUnavailable, outage);
        const auto found = indexes.find(digest);
        return found == indexes.end() ? std::nullopt : std::optional(found->second);
    }
    std::string blob(const BlobRef &blob, bool, size_t limit) override {
        ++asked;
        const auto found = blobs.find(blob.digest);
        if (found == blobs.end()) throw Error(ErrorClass::kNotFound, "no blob " + blob.digest);
        if (found->second.size() > limit) throw Error(ErrorClass::kInvalidArgument, "too large");
        return found->second;
    }
    void keep(const std::vector<TestSignature> &signatures) {
        for (const TestSignature &one : signatures)
            blobs[sha256_of(one.payload)] = one.payload;
    }
    static std::string dashed(std::string digest) {
        digest[digest.find(':')] = '-';
        return digest;
    }
    void by_tag(const std::string &digest, const std::vector<TestSignature> &signatures) {
        keep(signatures);
        tags[dashed(digest) + ".sig"] = signature_manifest(signatures);
    }
    /// An index of referrers with one manifest.
    std::string by_referrer(const std::vector<TestSignature> &signatures, const std::string &type) {
        keep(signatures);
        const std::string manifest = signature_manifest(signatures);
        blobs[sha256_of(manifest)] = manifest;
        return R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[)"
               R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"a/other",)"
               R"("size":2,"digest":")" +
               sha256_of("{}") + R"("},{"mediaType":"application/vnd.oci.image.manifest.v1+json",)" +
               R"("artifactType":")" + type + R"(","size":)" + std::to_string(manifest.size()) +
               R"(,"digest":")" + sha256_of(manifest) + R"("}]})";
    }
};

} // namespace gantry
