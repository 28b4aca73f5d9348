// What peers say to each other, inside TLS: one line that asks, one line that answers, then the bytes.
//
//   GANTRY-PEER/1 GET sha256:<hex> <offset> <length>    length 0: to the end
//   GANTRY-PEER/1 200 <size> <offset> <length>          of the blob; of the bytes that follow
//   GANTRY-PEER/1 404 0 0 0                             this engine does not have it
//   GANTRY-PEER/1 PING                                  answered by 204 0 0 0
//
// The next question follows on the same connection. Lines have at most 256 bytes, numbers are decimal; what
// is anything else ends the connection.
#pragma once

#include "tls.h"

namespace gantry::peer {

constexpr int kOk = 200, kPong = 204, kBad = 400, kMissing = 404, kNoRange = 416, kFailed = 500, kBusy = 503;

struct Question {
    bool ping = false;
    std::string digest;
    uint64_t offset = 0, length = 0;
};
struct Answer {
    int status = 0;
    uint64_t size = 0, offset = 0, length = 0;
};

std::string text_of(const Question &question);
std::string text_of(const Answer &answer);
/// Both throw kDataLoss on anything but such a line (without its end).
Question parse_question(const std::string &line);
Answer parse_answer(const std::string &line);
/// "sha256:" or "sha512:" with as many hexadecimal digits as it takes.
bool is_digest(const std::string &text);

/// A stream read in lines and bytes.
class Talk {
  public:
    explicit Talk(TlsStream stream) : stream_(std::move(stream)) {}
    /// "": the other end has closed instead of beginning a line. kDataLoss when a line is too long.
    std::string line(const Patience &patience);
    size_t read(void *buffer, size_t size, const Patience &patience);
    void write(const void *data, size_t size, const Patience &patience) {
        stream_.write(data, size, patience);
    }

  private:
    TlsStream stream_;
    std::string ahead_; // read and not yet asked for
};

} // namespace gantry::peer
