// Peers against each other on loopback, and against strangers: servers with another secret, that die amid a
// blob, that say nothing, that lie.
#include "driver.h"
#include "secret.h"

#include <gantry/thunk.hpp>

#include <arpa/inet.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace gantry::peer {
namespace {

constexpr char kDigestOfX[] =
    "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"; // "x"
const std::string kManifest = R"({"schemaVersion":2,"config":{},"layers":[]})";
constexpr char kDigestOfManifest[] =
    "sha256:4108250765b19c4d5000be73d2bdd612bbb17a989972bcfd1adbf5085a9af46b";

std::string digest_of_zeros(char last) { return "sha256:" + std::string(63, '0') + last; }

ErrorClass class_of(const std::function<void()> &work, std::string *message = nullptr) {
    try {
        work();
    } catch (const Error &error) {
        if (message) *message = error.message() + " | " + error.hint();
        return error.error_class();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorClass::kInternal;
}

/// A socket that listens on loopback, with nobody behind it unless the test accepts.
struct Listener {
    UniqueFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    std::string address;
    Listener() {
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof at;
        EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr *>(&at), size), 0);
        EXPECT_EQ(::listen(socket.get(), 8), 0);
        EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr *>(&at), &size), 0);
        address = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
    }
};

struct PeerTest : testing::Test {
    std::string dir, secret;
    std::map<std::string, std::string> blobs;
    std::mutex mutex;
    std::map<std::string, int64_t> counts;
    std::vector<std::string> logged;
    detail::SubCall raw{nullptr, 20'000'000'000};
    Call call{raw.raw()};

    void SetUp() override {
        char name[] = "/tmp/gantry-peer.XXXXXX";
        dir = ::mkdtemp(name);
        secret = write_secret("secret", std::string(64, 's'));
    }
    void TearDown() override { std::filesystem::remove_all(dir); }

    std::string write_secret(const std::string &name, const std::string &text, mode_t mode = 0600) const {
        const std::string path = dir + "/" + name;
        std::ofstream(path) << text << "\n";
        ::chmod(path.c_str(), mode);
        return path;
    }
    PeerDriver::Services services() {
        return {[this](const std::string &digest, uint64_t &size) {
                    const std::lock_guard lock(mutex);
                    const auto found = blobs.find(digest);
                    if (found == blobs.end()) throw Error(ErrorClass::kNotFound, "open: none");
                    UniqueFd fd(::memfd_create("blob", MFD_CLOEXEC));
                    EXPECT_EQ(::write(fd.get(), found->second.data(), found->second.size()),
                              static_cast<ssize_t>(found->second.size()));
                    size = found->second.size();
                    return fd;
                },
                [this](int32_t, const std::string &text) {
                    const std::lock_guard lock(mutex);
                    logged.push_back(text);
                },
                [this](const char *what, int64_t more) {
                    const std::lock_guard lock(mutex);
                    counts[what] += more;
                }};
    }
    Options giving() const {
        Options out;
        out.listen = "127.0.0.1:0";
        out.secret_file = secret;
        return out;
    }
    Options taking(std::vector<std::string> peers) const {
        Options out;
        out.peers = std::move(peers);
        out.secret_file = secret;
        out.connect_timeout_ns = 300'000'000;
        out.stall_timeout_ns = 300'000'000;
        return out;
    }
    std::string get(PeerDriver &driver, const std::string &digest, uint64_t size, uint64_t offset = 0,
                    uint64_t length = 0, std::vector<std::string> avoid = {}) {
        Fetch what;
        what.from = {"r.example", "x", "", ""};
        what.descriptor = {"m", digest, size, ""};
        what.offset = offset;
        what.length = length;
        what.avoid = std::move(avoid);
        std::string out;
        driver.fetch(call, what, [&](const std::string &, uint64_t at, const void *data, size_t n) {
            EXPECT_EQ(at, offset + out.size());
            out.append(static_cast<const char *>(data), n);
        });
        return out;
    }
    int64_t counted(const char *what) {
        const std::lock_guard lock(mutex);
        return counts[what];
    }
};

TEST_F(PeerTest, SecretsThatOthersCanReadAreRefused) {
    std::string message;
    EXPECT_EQ(read_key(secret).size(), 32u);
    EXPECT_EQ(read_key(secret), read_key(write_secret("same", std::string(64, 's') + "\n")));
    EXPECT_NE(read_key(secret), read_key(write_secret("other", std::string(64, 't'))));
    EXPECT_EQ(class_of([&] { read_key(write_secret("g", std::string(64, 's'), 0640)); }, &message),
              ErrorClass::kPermissionDenied);
    EXPECT_NE(message.find("others than its owner have access to it | chmod 600 "), std::string::npos)
        << message;
    EXPECT_EQ(class_of([&] { read_key(write_secret("o", std::string(64, 's'), 0604)); }),
              ErrorClass::kPermissionDenied);
    EXPECT_EQ(class_of([&] { read_key(write_secret("short", "password")); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { read_key(dir + "/none"); }), ErrorClass::kNotFound);
    EXPECT_EQ(class_of([&] { read_key(dir); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { read_key(""); }, &message), ErrorClass::kInvalidArgument);
    EXPECT_NE(message.find("openssl rand"), std::string::npos);
}

TEST_F(PeerTest, BytesComeWholeAndInPieces) {
    std::string big(3'000'000, '\0');
    for (size_t i = 0; i < big.size(); ++i)
        big[i] = static_cast<char>(i * 31 + i / 977);
    blobs[digest_of_zeros('1')] = big;
    blobs[digest_of_zeros('2')] = "";
    PeerDriver giver(giving(), services());
    PeerDriver taker(taking({giver.address()}), services());
    EXPECT_TRUE(taker.handles(call, {"r.example", "x", "t", ""}));
    EXPECT_FALSE(giver.handles(call, {"r.example", "x", "t", ""})); // has no peers
    EXPECT_EQ(get(taker, digest_of_zeros('1'), big.size()), big);
    EXPECT_EQ(get(taker, digest_of_zeros('1'), 0), big); // the size is not known
    EXPECT_EQ(get(taker, digest_of_zeros('1'), big.size(), 2'999'999), big.substr(2'999'999));
    EXPECT_EQ(get(taker, digest_of_zeros('1'), big.size(), 1000, 500'000), big.substr(1000, 500'000));
    EXPECT_EQ(get(taker, digest_of_zeros('2'), 0), "");
    EXPECT_EQ(class_of([&] { get(taker, digest_of_zeros('3'), 5); }), ErrorClass::kNotFound);
    EXPECT_EQ(class_of([&] { get(taker, digest_of_zeros('1'), big.size() + 1); }), ErrorClass::kUnavailable);
    EXPECT_EQ(class_of([&] { get(taker, "sha256:../../etc/passwd", 5); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(counted("strangers"), 0);
}

TEST_F(PeerTest, TheReceiversWordComesBack) {
    blobs[digest_of_zeros('1')] = std::string(1'000'000, 'x');
    PeerDriver giver(giving(), services());
    PeerDriver taker(taking({giver.address()}), services());
    Fetch what;
    what.descriptor = {"m", digest_of_zeros('1'), 1'000'000, ""};
    EXPECT_EQ(class_of([&] {
                  taker.fetch(call, what, [](const std::string &, uint64_t, const void *, size_t) {
                      throw Error(ErrorClass::kNoSpace, "write: full");
                  });
              }),
              ErrorClass::kNoSpace);
}

TEST_F(PeerTest, OnlyDigestsAreResolvedAndOnlyOfManifests) {
    PeerDriver giver(giving(), services());
    PeerDriver taker(taking({giver.address()}), services());
    EXPECT_EQ(class_of([&] {
                  taker.resolve(call, {"r", "x", "t", ""}, {}, nullptr);
              }),
              ErrorClass::kUnsupported);
    blobs[kDigestOfX] = "x";
    EXPECT_EQ(class_of([&] {
                  taker.resolve(call, {"r", "x", "", kDigestOfX}, {}, nullptr);
              }),
              ErrorClass::kDataLoss); // the digest is right, but it is no JSON
    blobs[kDigestOfManifest] = kManifest;
    std::string body;
    const Descriptor found = taker.resolve(call, {"r", "x", "", kDigestOfManifest}, {}, &body);
    EXPECT_EQ(body, kManifest);
    EXPECT_EQ(found.media_type, "application/vnd.oci.image.manifest.v1+json");
    EXPECT_EQ(found.size, kManifest.size());
    EXPECT_EQ(found.endpoint, "peer://" + giver.address());
    blobs[kDigestOfManifest] = kManifest + " "; // a lie
    EXPECT_EQ(class_of([&] {
                  taker.resolve(call, {"r", "x", "", kDigestOfManifest}, {}, nullptr);
              }),
              ErrorClass::kNotFound);
}

TEST_F(PeerTest, AnotherSecretGetsNothing) {
    blobs[digest_of_zeros('1')] = "bytes";
    PeerDriver giver(giving(), services());
    Options stranger = taking({giver.address()});
    stranger.secret_file = write_secret("other", std::string(64, 't'));
    PeerDriver taker(stranger, services());
    std::string message;
    EXPECT_EQ(class_of([&] { get(taker, digest_of_zeros('1'), 5); }, &message), ErrorClass::kNotFound);
    EXPECT_NE(message.find("another registry.peer.secret_file?"), std::string::npos) << message;
    for (int i = 0; i < 200 && counted("strangers") == 0; ++i)
        ::usleep(10'000); // the giver's thread is told a moment later
    EXPECT_EQ(counted("strangers"), 1);
    EXPECT_EQ(counted("served_blobs"), 0);
    // It rests now: the next call does not even connect.
    EXPECT_EQ(class_of([&] { get(taker, digest_of_zeros('1'), 5); }, &message), ErrorClass::kNotFound);
    EXPECT_NE(message.find("all of them rest"), std::string::npos) << message;
}

TEST_F(PeerTest, PlainTextAndNonsenseAreRefused) {
    PeerDriver giver(giving(), services());
    const HostPort where = parse_host_port(giver.address(), "listen");
    const UniqueFd socket = begin_connect(addresses_of(where, true).at(0));
    await(socket.get(), POLLOUT, {Call::now_ns() + 1'000'000'000, -1}, "connect");
    const std::string text = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    ASSERT_EQ(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
    char buffer[4096];
    ssize_t n = 0;
    do { // an alert at most, and the end
        await(socket.get(), POLLIN, {Call::now_ns() + 5'000'000'000, -1}, "read");
        n = ::recv(socket.get(), buffer, sizeof buffer, 0);
    } while (n > 0);
    for (const char *bad : {"", "GANTRY-PEER/2 PING", "GANTRY-PEER/1 GET sha256:00 0 0",
                            "GANTRY-PEER/1 GET ../x 0 0", "GANTRY-PEER/1 PING now"})
        EXPECT_EQ(class_of([&] { parse_question(bad); }), ErrorClass::kDataLoss) << bad;
    const std::string good = "GANTRY-PEER/1 GET " + digest_of_zeros('1');
    EXPECT_EQ(parse_question(good + " 1 2").length, 2u);
    for (const char *bad :
         {" 1", " 1 2 3", " -1 2", " 1 x", " 18446744073709551615 2", " 18446744073709551616 0"})
        EXPECT_EQ(class_of([&] { parse_question(good + bad); }), ErrorClass::kDataLoss) << bad;
    for (const char *bad : {"GANTRY-PEER/1 200 5 6 0", "GANTRY-PEER/1 200 5 1 5", "HTTP/1.1 200 5 0 5"})
        EXPECT_EQ(class_of([&] { parse_answer(bad); }), ErrorClass::kDataLoss) << bad;
}

TEST_F(PeerTest, DeadAndSilentPeersCostLittle) {
    blobs[digest_of_zeros('1')] = "bytes";
    PeerDriver giver(giving(), services());
    const Listener silent; // the kernel accepts, nobody answers
    std::string dead;
    { dead = Listener().address; } // refuses
    PeerDriver taker(taking({silent.address, dead, giver.address(), "192.0.2.1:9", "nobody.invalid:9"}),
                     services());
    // Whoever is met first, the handshake of a silent one is given up after two seconds, once.
    EXPECT_EQ(get(taker, digest_of_zeros('1'), 5), "bytes");
    EXPECT_EQ(class_of([&] { get(taker, digest_of_zeros('2'), 5); }), ErrorClass::kNotFound);
    const int64_t begun = Call::now_ns();
    EXPECT_EQ(get(taker, digest_of_zeros('1'), 5), "bytes"); // the others rest
    EXPECT_LT(Call::now_ns() - begun, 200'000'000);
    int resting = 0;
    for (const EndpointLine &line : taker.explain(call, {"r", "x", "t", ""}))
        resting += line.state.starts_with("resting");
    EXPECT_EQ(resting, 4);
}

TEST_F(PeerTest, APeerThatDiesAmidABlobLeavesTheRestToAnother) {
    const std::string bytes(200'000, 'b');
    blobs[digest_of_zeros('1')] = bytes;
    const TlsKey key(read_key(secret));
    const Listener dying;
    std::thread half([&] { // promises all and gives half
        UniqueFd socket(::accept4(dying.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        const Patience patience{Call::now_ns() + 5'000'000'000, -1};
        Talk talk(TlsStream(key, std::move(socket), TlsStream::Role::kServer, patience));
        const Question question = parse_question(talk.line(patience));
        const std::string head =
            text_of(Answer{kOk, bytes.size(), question.offset, bytes.size() - question.offset});
        talk.write(head.data(), head.size(), patience);
        talk.write(bytes.data(), 100'000, patience);
    });
    PeerDriver first(taking({dying.address}), services());
    uint64_t reached = 0;
    Fetch what;
    what.descriptor = {"m", digest_of_zeros('1'), bytes.size(), ""};
    EXPECT_EQ(class_of([&] {
                  first.fetch(call, what, [&](const std::string &, uint64_t at, const void *, size_t size) {
                      EXPECT_EQ(at, reached);
                      reached += size;
                  });
              }),
              ErrorClass::kUnavailable);
    half.join();
    EXPECT_EQ(reached, 100'000u);
    PeerDriver giver(giving(), services());
    PeerDriver second(taking({giver.address()}), services());
    EXPECT_EQ(get(second, digest_of_zeros('1'), bytes.size(), reached).size(), 100'000u);
    EXPECT_EQ(class_of([&] {
                  get(second, digest_of_zeros('1'), bytes.size(), 0, 0, {"peer://" + giver.address()});
              }),
              ErrorClass::kNotFound); // its bytes were wrong before
}

TEST_F(PeerTest, CallsAreCancelledAtOnce) {
    const Listener silent;
    PeerDriver taker(taking({silent.address}), services());
    const UniqueFd cancel(::eventfd(1, EFD_CLOEXEC));
    gantry_call copy = *raw.raw();
    copy.cancel_fd = cancel.get();
    Fetch what;
    what.descriptor = {"m", digest_of_zeros('1'), 5, ""};
    EXPECT_EQ(class_of([&] {
                  taker.fetch(Call(&copy), what, [](const std::string &, uint64_t, const void *, size_t) {});
              }),
              ErrorClass::kCancelled);
    const detail::SubCall late(nullptr, 200'000'000);
    const int64_t begun = Call::now_ns();
    EXPECT_EQ(class_of([&] {
                  taker.fetch(Call(late.raw()), what,
                              [](const std::string &, uint64_t, const void *, size_t) {});
              }),
              ErrorClass::kDeadline);
    EXPECT_LT(Call::now_ns() - begun, 1'000'000'000);
}

TEST_F(PeerTest, ConnectionsAndBandwidthHaveABound) {
    blobs[digest_of_zeros('1')] = std::string(300'000, 'x');
    Options narrow = giving();
    narrow.max_connections = 1;
    narrow.bandwidth = 1'000'000;
    PeerDriver giver(narrow, services());
    PeerDriver taker(taking({giver.address()}), services());
    const int64_t begun = Call::now_ns();
    EXPECT_EQ(get(taker, digest_of_zeros('1'), 300'000).size(), 300'000u);
    EXPECT_GT(Call::now_ns() - begun, 150'000'000); // the first pieces are free
    const HostPort where = parse_host_port(giver.address(), "listen");
    // Nobody else while this one is there; the last connection may take a moment to end.
    UniqueFd holder;
    for (int i = 0; i < 100 && counted("turned_away") == 0; ++i) {
        if (!holder) holder = begin_connect(addresses_of(where, true).at(0));
        const UniqueFd another = begin_connect(addresses_of(where, true).at(0));
        pollfd p{another.get(), POLLIN, 0};
        (void)::poll(&p, 1, 20);
    }
    EXPECT_GT(counted("turned_away"), 0);
}

TEST_F(PeerTest, TheEndOfAServerWaitsForNobody) {
    blobs[digest_of_zeros('1')] = std::string(8 << 20, 'x');
    Options narrow = giving();
    narrow.bandwidth = 1000; // hours
    auto giver = std::make_unique<PeerDriver>(narrow, services());
    PeerDriver taker(taking({giver->address()}), services());
    std::thread reader([&] {
        Fetch what;
        what.descriptor = {"m", digest_of_zeros('1'), 8 << 20, ""};
        try {
            taker.fetch(call, what, [](const std::string &, uint64_t, const void *, size_t) {});
            ADD_FAILURE() << "it came whole";
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kUnavailable) << error.message();
        }
    });
    for (int i = 0; i < 500 && counted("served_blobs") == 0; ++i)
        ::usleep(10'000);
    const int64_t begun = Call::now_ns();
    giver.reset();
    EXPECT_LT(Call::now_ns() - begun, 1'000'000'000);
    reader.join();
}

TEST_F(PeerTest, OptionsAreJudged) {
    for (const char *bad : {"x", "x:", ":1", "x:70000", "::1:7420", "x:1a"}) {
        EXPECT_EQ(class_of([&] { PeerDriver(taking({bad}), services()); }), ErrorClass::kInvalidArgument)
            << bad;
    }
    Options named = giving();
    named.listen = "localhost:0";
    EXPECT_EQ(class_of([&] { PeerDriver(named, services()); }), ErrorClass::kInvalidArgument);
    PeerDriver giver(giving(), services());
    named.listen = giver.address();
    EXPECT_EQ(class_of([&] { PeerDriver(named, services()); }), ErrorClass::kAlreadyExists);
    // The same list everywhere: oneself is left out.
    Options same = giving();
    same.peers = {same.listen};
    EXPECT_FALSE(PeerDriver(same, services()).handles(call, {"r", "x", "t", ""}));
}

} // namespace
} // namespace gantry::peer
