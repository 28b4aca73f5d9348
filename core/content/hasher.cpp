// Digests by OpenSSL, which uses the CPU's SHA instructions (1.5 GB/s measured). By its low-level calls:
// EVP runs the same code but gives nobody its state, and with the state of the bytes so far an interrupted
// download goes on without reading them again (0.7 s for each GiB, and from a cold disk as long as that
// takes).
#define OPENSSL_SUPPRESS_DEPRECATED
#include "core/content/content.h"

#include <gantry/error.hpp>

#include <cstring>
#include <openssl/sha.h>
#include <variant>

namespace gantry {
namespace {

std::string hex(const unsigned char *bytes, size_t size) {
    static const char kDigits[] = "0123456789abcdef";
    std::string out;
    out.reserve(size * 2);
    for (size_t i = 0; i < size; ++i) {
        out += kDigits[bytes[i] >> 4];
        out += kDigits[bytes[i] & 15];
    }
    return out;
}

} // namespace

void check_digest(std::string_view digest) {
    const size_t colon = digest.find(':');
    const auto algorithm = digest.substr(0, colon);
    const size_t length = algorithm == "sha256" ? 64 : algorithm == "sha512" ? 128 : 0;
    if (colon != std::string_view::npos && length != 0 && digest.size() == colon + 1 + length &&
        digest.find_first_not_of("0123456789abcdef", colon + 1) == std::string_view::npos)
        return;
    // The text may come from a registry: never repeat more than a line of it.
    throw Error(ErrorClass::kInvalidArgument,
                "read digest '" + std::string(digest.substr(0, 80)) + "': not sha256:<hex> or sha512:<hex>");
}

std::string sha256_of(std::string_view bytes) {
    Hasher hasher;
    hasher.update(bytes.data(), bytes.size());
    return hasher.digest();
}

struct Hasher::Impl {
    std::variant<SHA256_CTX, SHA512_CTX> context;

    explicit Impl(std::string_view algorithm) {
        bool good = false;
        if (algorithm == "sha256")
            good = SHA256_Init(&context.emplace<SHA256_CTX>()) == 1;
        else if (algorithm == "sha512")
            good = SHA512_Init(&context.emplace<SHA512_CTX>()) == 1;
        else
            throw Error(ErrorClass::kInvalidArgument,
                        "hash with '" + std::string(algorithm.substr(0, 40)) + "': unknown algorithm");
        if (!good) throw Error(ErrorClass::kInternal, "hash: OpenSSL gave no digest context");
    }
};

Hasher::Hasher(std::string_view algorithm) : impl_(std::make_unique<Impl>(algorithm)) {}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher &&) noexcept = default;
Hasher &Hasher::operator=(Hasher &&) noexcept = default;

void Hasher::update(const void *data, size_t size) {
    auto *sha256 = std::get_if<SHA256_CTX>(&impl_->context);
    if ((sha256 ? SHA256_Update(sha256, data, size)
                : SHA512_Update(&std::get<SHA512_CTX>(impl_->context), data, size)) != 1)
        throw Error(ErrorClass::kInternal, "hash: OpenSSL refused the data");
}

std::string Hasher::digest() const {
    unsigned char raw[SHA512_DIGEST_LENGTH];
    auto context = impl_->context; // finishing ends it
    if (auto *sha256 = std::get_if<SHA256_CTX>(&context)) {
        if (SHA256_Final(raw, sha256) == 1) return "sha256:" + hex(raw, SHA256_DIGEST_LENGTH);
    } else if (SHA512_Final(raw, &std::get<SHA512_CTX>(context)) == 1) {
        return "sha512:" + hex(raw, SHA512_DIGEST_LENGTH);
    }
    throw Error(ErrorClass::kInternal, "hash: OpenSSL gave no digest");
}

std::string Hasher::state() const {
    return std::visit([](const auto &c) { return std::string(reinterpret_cast<const char *>(&c), sizeof c); },
                      impl_->context);
}

bool Hasher::restore(std::string_view state, uint64_t bytes) {
    return std::visit(
        [&](auto &c) {
            auto was = c;
            if (state.size() != sizeof c) return false;
            std::memcpy(&was, state.data(), sizeof was);
            const uint64_t block = c.md_len == SHA256_DIGEST_LENGTH ? SHA256_CBLOCK : SHA512_CBLOCK;
            const uint64_t bits = sizeof c.Nl == 4 ? (uint64_t(was.Nh) << 32) + was.Nl : was.Nl;
            if (was.md_len != c.md_len || was.num != bytes % block || bits != bytes * 8) return false;
            c = was;
            return true;
        },
        impl_->context);
}

} // namespace gantry
