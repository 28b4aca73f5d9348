// The file and the journal behind an Ingest. Between the store and its ingests.
#pragma once

#include "core/content/content.h"
#include "core/content/journal.h"

#include <mutex>

namespace gantry {

/// root/content/ingest/<digest>.partial and .journal. Thread-safe; open and drop by the one owner.
class Partial {
  public:
    Partial(std::string digest, uint64_t size, const std::string &path_without_suffix);

    const std::string &data_path() const { return data_path_; }
    uint64_t size() const { return size_; }
    uint64_t written() const;
    uint64_t present() const;
    std::vector<BlobRange> missing() const;
    std::vector<Ingest::Source> sources() const;
    void write(uint64_t at, const char *data, size_t size, const std::string &endpoint);
    bool matches();
    uint64_t doubt(const std::string &endpoint);
    bool differed() const;
    void sync_data();
    /// So that a power cut leaves what is there. Nothing to do when nothing came since.
    void settle();
    void note();
    /// Bytes that a power cut would take.
    uint64_t unsettled() const;
    void drop();
    void forget_journal();

    static void drop(const std::string &path_without_suffix);

  private:
    void pwrite_all(uint64_t at, const char *data, size_t size);
    void pread_all(uint64_t at, char *data, size_t size) const;
    bool replaces_other(uint64_t at, const char *data, size_t size) const;
    /// With hash_mutex_ held. `mine`: ranges of `data`, which begins at `at`, that are in the file as they
    /// are here.
    void hash_on(const std::vector<BlobRange> &mine, uint64_t at, const char *data, uint64_t limit);
    PartialState snapshot();

    const std::string digest_, algorithm_, data_path_, journal_path_;
    const uint64_t size_;
    UniqueFd fd_;
    std::unique_ptr<PartialJournal> journal_;

    mutable std::mutex mutex_; // what is there
    PartialState state_;       // its hash is kept by hasher_
    std::vector<BlobRange> doubted_, in_flight_;
    uint64_t since_note_ = 0, since_settle_ = 0, since_flush_ = 0;
    bool differed_ = false, dropped_ = false, noted_ = false;

    std::mutex hash_mutex_; // taken before mutex_
    Hasher hasher_;
    uint64_t hashed_ = 0;

    std::mutex journal_mutex_; // taken before the others
};

} // namespace gantry
