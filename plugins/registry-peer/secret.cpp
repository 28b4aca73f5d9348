#include "secret.h"

#include <gantry/fd.hpp>

#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <sys/stat.h>

namespace gantry::peer {
namespace {

constexpr size_t kShortest = 32, kLongest = 4096;

} // namespace

std::string read_key(const std::string &secret_file) {
    const std::string doing = "read registry.peer.secret_file " + secret_file;
    const char *const advice =
        "make one with: openssl rand -hex 32 > FILE; chmod 600 FILE; and copy it to all "
        "engines of the site";
    if (secret_file.empty())
        throw Error(ErrorClass::kInvalidArgument,
                    "use registry driver peer: registry.peer.secret_file is not set", advice);
    const UniqueFd file(::open(secret_file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file) {
        const Error error = Error::from_errno(errno, doing);
        throw Error(error.error_class(), error.message(), advice, error.errno_value());
    }
    struct stat st {};
    if (::fstat(file.get(), &st) != 0) throw Error::from_errno(errno, doing);
    if (!S_ISREG(st.st_mode)) throw Error(ErrorClass::kInvalidArgument, doing + ": it is no file");
    if ((st.st_mode & 077) != 0)
        throw Error(ErrorClass::kPermissionDenied, doing + ": others than its owner have access to it",
                    "chmod 600 " + secret_file);
    if (st.st_uid != 0 && st.st_uid != ::geteuid())
        throw Error(ErrorClass::kPermissionDenied,
                    doing + ": it belongs to user " + std::to_string(st.st_uid), "chown root " + secret_file);
    std::string secret(kLongest + 1, '\0');
    const ssize_t size = ::pread(file.get(), secret.data(), secret.size(), 0);
    if (size < 0) throw Error::from_errno(errno, doing);
    secret.resize(static_cast<size_t>(size));
    if (secret.size() > kLongest)
        throw Error(ErrorClass::kInvalidArgument, doing + ": it has more than 4096 bytes");
    while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r'))
        secret.pop_back();
    if (secret.size() < kShortest)
        throw Error(ErrorClass::kInvalidArgument, doing + ": it has less than 32 bytes", advice);
    std::string key(32, '\0');
    size_t length = key.size();
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr);
    static constexpr unsigned char kSalt[] = "gantry peer 1", kInfo[] = "tls 1.3 external psk";
    const bool made =
        context && EVP_PKEY_derive_init(context) == 1 &&
        EVP_PKEY_CTX_set_hkdf_md(context, EVP_sha256()) == 1 &&
        EVP_PKEY_CTX_set1_hkdf_salt(context, kSalt, sizeof kSalt - 1) == 1 &&
        EVP_PKEY_CTX_set1_hkdf_key(context, reinterpret_cast<const unsigned char *>(secret.data()),
                                   static_cast<int>(secret.size())) == 1 &&
        EVP_PKEY_CTX_add1_hkdf_info(context, kInfo, sizeof kInfo - 1) == 1 &&
        EVP_PKEY_derive(context, reinterpret_cast<unsigned char *>(key.data()), &length) == 1;
    EVP_PKEY_CTX_free(context);
    if (!made || length != key.size())
        throw Error(ErrorClass::kInternal, "use registry driver peer: libcrypto made no key");
    return key;
}

} // namespace gantry::peer
