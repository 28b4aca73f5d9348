#include "tls.h"

#include <gantry/call.hpp>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

namespace gantry::peer {
namespace {

constexpr unsigned char kIdentity[] = {'g', 'a', 'n', 't', 'r', 'y', '-', 'p', 'e', 'e', 'r', '/', '1'};
constexpr unsigned char kCipher[] = {0x13, 0x01}; // TLS_AES_128_GCM_SHA256: its hash is the key's

template <auto release> struct Freed {
    template <typename T> void operator()(T *what) const noexcept { release(what); }
};
using Context = std::unique_ptr<SSL_CTX, Freed<SSL_CTX_free>>;
using Session = std::unique_ptr<SSL, Freed<SSL_free>>;

/// A copy of the key in the form in which OpenSSL wants it.
SSL_SESSION *session_of(SSL *ssl) {
    const auto &key = *static_cast<const std::string *>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
    SSL_SESSION *session = SSL_SESSION_new();
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, kCipher);
    if (session && cipher &&
        SSL_SESSION_set1_master_key(session, reinterpret_cast<const unsigned char *>(key.data()),
                                    key.size()) == 1 &&
        SSL_SESSION_set_cipher(session, cipher) == 1 &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
        return session;
    SSL_SESSION_free(session);
    return nullptr;
}

int offer(SSL *ssl, const EVP_MD *hash, const unsigned char **id, size_t *id_size, SSL_SESSION **session) {
    *session = nullptr;
    if (hash && EVP_MD_get_type(hash) != NID_sha256) return 1; // nothing to offer for that one
    *session = session_of(ssl);
    *id = kIdentity;
    *id_size = sizeof kIdentity;
    return *session != nullptr;
}

int find(SSL *ssl, const unsigned char *id, size_t size, SSL_SESSION **session) {
    *session = nullptr;
    if (std::string_view(reinterpret_cast<const char *>(id), size) ==
        std::string_view(reinterpret_cast<const char *>(kIdentity), sizeof kIdentity))
        *session = session_of(ssl);
    return 1;
}

// OpenSSL's own socket BIO writes without MSG_NOSIGNAL, and a plugin may not change what a signal does.
int bio_write(BIO *bio, const char *data, int size) {
    BIO_clear_retry_flags(bio);
    const ssize_t n = ::send(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), data,
                             static_cast<size_t>(size), MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
    return static_cast<int>(n);
}
int bio_read(BIO *bio, char *to, int size) {
    BIO_clear_retry_flags(bio);
    const ssize_t n = ::recv(static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))), to,
                             static_cast<size_t>(size), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
    return static_cast<int>(n);
}
long bio_control(BIO *, int command, long, void *) { return command == BIO_CTRL_FLUSH ? 1 : 0; }
BIO *socket_bio(int fd) {
    static BIO_METHOD *const method = [] {
        BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket without signals");
        if (m) {
            BIO_meth_set_write(m, bio_write);
            BIO_meth_set_read(m, bio_read);
            BIO_meth_set_ctrl(m, bio_control);
        }
        return m;
    }();
    BIO *bio = method ? BIO_new(method) : nullptr;
    if (bio) {
        BIO_set_data(bio, reinterpret_cast<void *>(static_cast<intptr_t>(fd)));
        BIO_set_init(bio, 1);
    }
    return bio;
}

std::string why() {
    const unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : nullptr;
    std::string out = text ? text : "the connection was cut";
    ERR_clear_error();
    return out;
}

Context make_context(const SSL_METHOD *method, std::string &key) {
    Context out(SSL_CTX_new(method));
    if (!out || SSL_CTX_set_min_proto_version(out.get(), TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(out.get(), "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") != 1)
        throw Error(ErrorClass::kInternal, "use registry driver peer: libssl offers no TLS 1.3: " + why());
    SSL_CTX_set_app_data(out.get(), &key);
    SSL_CTX_set_session_cache_mode(out.get(), SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(out.get(), 0);
    SSL_CTX_set_mode(out.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                    SSL_MODE_RELEASE_BUFFERS);
    return out;
}

} // namespace

void await(int fd, short events, const Patience &patience, const char *doing) {
    for (;;) {
        int wait_ms = -1;
        if (patience.until_ns) {
            const int64_t left = patience.until_ns - Call::now_ns();
            if (left <= 0)
                throw Error(ErrorClass::kDeadline, std::string(doing) + ": it did not answer in time");
            wait_ms = static_cast<int>(std::min<int64_t>(left / 1'000'000 + 1, 1 << 30));
        }
        pollfd p[] = {{fd, events, 0}, {patience.stop_fd, POLLIN, 0}};
        const int n = ::poll(p, 2, wait_ms);
        if (n < 0 && errno != EINTR) throw Error::from_errno(errno, doing);
        if (n > 0 && p[1].revents) throw Error(ErrorClass::kCancelled, std::string(doing) + ": stopped");
        if (n > 0 && p[0].revents) return;
    }
}

struct TlsKey::Impl {
    std::string key;
    Context server, client;
};

TlsKey::TlsKey(std::string key) : impl_(std::make_unique<Impl>()) {
    impl_->key = std::move(key);
    impl_->server = make_context(TLS_server_method(), impl_->key);
    SSL_CTX_set_psk_find_session_callback(impl_->server.get(), find);
    impl_->client = make_context(TLS_client_method(), impl_->key);
    SSL_CTX_set_psk_use_session_callback(impl_->client.get(), offer);
    // Whoever answers with a certificate instead of the key is a stranger: no authority is trusted.
    SSL_CTX_set_verify(impl_->client.get(), SSL_VERIFY_PEER, nullptr);
}
TlsKey::~TlsKey() = default;

struct TlsStream::Impl {
    UniqueFd socket;
    Session ssl;

    /// Until `step` is done: 1 or more. Its other results wait for the socket or end here.
    template <typename F>
    int drive(const Patience &patience, const char *doing, ErrorClass broken, F &&step) {
        for (;;) {
            ERR_clear_error();
            errno = 0;
            const int n = step();
            if (n > 0) return n;
            switch (SSL_get_error(ssl.get(), n)) {
            case SSL_ERROR_WANT_READ: await(socket.get(), POLLIN, patience, doing); break;
            case SSL_ERROR_WANT_WRITE: await(socket.get(), POLLOUT, patience, doing); break;
            case SSL_ERROR_ZERO_RETURN: return 0;
            case SSL_ERROR_SSL: throw Error(broken, std::string(doing) + ": " + why());
            default:
                throw Error(ErrorClass::kUnavailable,
                            std::string(doing) + ": " +
                                (errno ? ::strerror(errno) : "the connection was cut"));
            }
        }
    }
};

TlsStream::TlsStream(const TlsKey &key, UniqueFd socket, Role role, const Patience &patience)
    : impl_(std::make_unique<Impl>()) {
    const bool server = role == Role::kServer;
    impl_->socket = std::move(socket);
    impl_->ssl.reset(SSL_new((server ? key.impl().server : key.impl().client).get()));
    BIO *bio = impl_->ssl ? socket_bio(impl_->socket.get()) : nullptr;
    if (!bio) throw Error(ErrorClass::kNoSpace, "begin TLS: out of memory");
    SSL_set_bio(impl_->ssl.get(), bio, bio);
    const int done = impl_->drive(patience, "shake hands", ErrorClass::kPermissionDenied, [&] {
        return server ? SSL_accept(impl_->ssl.get()) : SSL_connect(impl_->ssl.get());
    });
    // Only a key leads to a resumed session; belt and braces.
    if (done <= 0 || SSL_session_reused(impl_->ssl.get()) != 1)
        throw Error(ErrorClass::kPermissionDenied, "shake hands: the other end did not prove the secret");
}
TlsStream::~TlsStream() {
    if (impl_ && impl_->ssl && SSL_is_init_finished(impl_->ssl.get())) SSL_shutdown(impl_->ssl.get());
    ERR_clear_error();
}
TlsStream::TlsStream(TlsStream &&) noexcept = default;

size_t TlsStream::read(void *buffer, size_t size, const Patience &patience) {
    return static_cast<size_t>(impl_->drive(patience, "read", ErrorClass::kUnavailable, [&] {
        return SSL_read(impl_->ssl.get(), buffer, static_cast<int>(std::min<size_t>(size, 1 << 20)));
    }));
}

void TlsStream::write(const void *data, size_t size, const Patience &patience) {
    for (size_t sent = 0; sent < size;) {
        const int n = impl_->drive(patience, "send", ErrorClass::kUnavailable, [&] {
            return SSL_write(impl_->ssl.get(), static_cast<const char *>(data) + sent,
                             static_cast<int>(std::min<size_t>(size - sent, 1 << 20)));
        });
        if (n <= 0) throw Error(ErrorClass::kUnavailable, "send: the connection was closed");
        sent += static_cast<size_t>(n);
    }
}

} // namespace gantry::peer
