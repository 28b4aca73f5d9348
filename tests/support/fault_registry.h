// A registry on loopback that fails on demand, for what no real one does when asked: it cuts and stalls
// answers at a byte, ignores or misquotes ranges, refuses, asks to wait, forgets tokens, corrupts, is slow,
// dies. It counts the bytes of blobs that it sent.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

/// A whole image in memory: manifest, config, layers.
struct FaultImage {
    std::string repository, tag, manifest, manifest_digest;
    std::map<std::string, std::string> blobs; // by digest
    std::vector<std::string> layers;          // digests, base first
    uint64_t layer_bytes() const;
};

/// A file of a layer: its content is noise that follows from the seed.
struct FaultFile {
    std::string path;
    size_t size = 0;
    unsigned seed = 1;
};
/// One uncompressed layer for each list of files, or zstd frames where asked for.
FaultImage make_fault_image(const std::string &repository, const std::vector<std::vector<FaultFile>> &layers,
                            bool zstd = false);

class FaultRegistry {
  public:
    static constexpr uint64_t kNever = ~uint64_t(0);
    struct Request {
        std::string digest;
        uint64_t offset = 0, size = 0; // first byte asked for; bytes of the blob
        bool ranged = false;
        int number = 0; // of this blob's requests, from 1
    };
    /// What goes wrong with one answer. Offsets are within the blob.
    struct Fault {
        int status = 0; // answer this instead
        int retry_after = -1;
        uint64_t cut_at = kNever, stall_at = kNever, corrupt_at = kNever;
        bool ignore_range = false, wrong_range = false;
    };
    using Script = std::function<Fault(const Request &)>;

    explicit FaultRegistry(FaultImage image, Script script = {});
    ~FaultRegistry();
    FaultRegistry(const FaultRegistry &) = delete;

    std::string host() const;                 // 127.0.0.1:PORT
    std::string url() const;                  // http://...
    std::string name() const;                 // HOST/REPOSITORY:TAG
    void throttle(uint64_t bytes_per_second); // of all connections together; 0: none
    /// Every token is good for so many requests; 0: none is asked for.
    void expire_tokens_after(int requests);
    /// Ends all connections, and every new one at once.
    void die();
    uint64_t served() const;      // bytes of layers
    int requests() const;         // for layers
    int most_connections() const; // that answered for layers at once
    void forget();                // the counts
    /// Waits until so many bytes of layers were sent.
    void await_served(uint64_t bytes) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};
