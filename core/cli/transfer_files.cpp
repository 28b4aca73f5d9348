#include "core/cli/transfer_files.h"

#include "core/base/fd.h"

#include <gantry/error.hpp>

#include <csignal>
#include <exception>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace gantry::cli {

void write_whole_file(const std::string &path, const std::function<void(int fd)> &write) {
    std::string temporary = path + ".XXXXXX";
    const UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file) throw Error::from_errno(errno, "create " + path);
    try {
        write(file.get());
        const mode_t mask = ::umask(0);
        ::umask(mask);
        if (::fchmod(file.get(), 0666 & ~mask) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0)
            throw Error::from_errno(errno, "write " + path);
    } catch (...) {
        ::unlink(temporary.c_str());
        throw;
    }
}

void pour(HttpConnection &from, int to, const std::string &what) {
    std::string buffer(256u << 10, 0);
    while (const size_t n = from.read_some(buffer.data(), buffer.size()))
        write_all(to, std::string_view(buffer).substr(0, n), what);
}

void pour_into_path(HttpConnection &from, const std::string &path) {
    struct stat st {};
    if (::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode)) {
        const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
        if (!file) throw Error::from_errno(errno, "open " + path);
        return pour(from, file.get(), path);
    }
    write_whole_file(path, [&](int file) { pour(from, file, path); });
}

void pipe_tar(const TreeTarOptions &options, const std::function<void(TreeTar &)> &fill,
              const std::function<void(int fd)> &use, uint64_t *bytes) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw Error::from_errno(errno, "make pipe");
    UniqueFd reader(ends[0]), writer(ends[1]);
    std::exception_ptr fill_failed, use_failed;
    std::thread worker([&] {
        sigset_t pipe_signal; // the daemon may refuse in the middle: an error, not a death
        sigemptyset(&pipe_signal);
        sigaddset(&pipe_signal, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe_signal, nullptr);
        bool refused = false;
        try {
            TreeTar tar(
                [&](const void *data, size_t size) {
                    try {
                        write_all(writer.get(), {static_cast<const char *>(data), size}, "archive");
                    } catch (const Error &error) {
                        refused = error.errno_value() == EPIPE;
                        throw;
                    }
                    if (bytes) *bytes += size;
                },
                options);
            fill(tar);
            tar.finish();
        } catch (...) {
            if (!refused) fill_failed = std::current_exception();
        }
        writer.reset();
    });
    try {
        use(reader.get());
    } catch (...) {
        use_failed = std::current_exception();
    }
    reader.reset();
    worker.join();
    if (fill_failed) std::rethrow_exception(fill_failed); // the daemon would only say that it was cut short
    if (use_failed) std::rethrow_exception(use_failed);
}

} // namespace gantry::cli
