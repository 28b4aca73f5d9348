// Measures layers without daemon and network.
//   layer_bench unpack LAYOUT DIR [N]   unpacks an OCI layout's layers below DIR, N at once (default: cores),
//   as
//                                       the overlay driver's format wants them; DIR is emptied by the caller
//   layer_bench limits LAYOUT           what reading, inflating and hashing alone take, on one core
//   layer_bench writable DIR [ROUNDS]   prepare + remove of a writable layer over 1 to 500 parents
//   layer_bench commit DIR [ROUNDS]     commit of one changed file over images of 1,000 and 60,000 files
// Each line is JSON, so that runs can be compared.
#include "core/content/content.h"
#include "core/layer/decompress.h"
#include "core/layer/layers.h"
#include "core/store/db.h"
#include "plugins/storage-overlay/driver.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sys/resource.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace {

using namespace gantry;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}
double cpu_ms() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto ms = [](const timeval &t) {
        return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
    };
    return ms(usage.ru_utime) + ms(usage.ru_stime);
}
std::string read_text(const fs::path &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error(ErrorClass::kNotFound, "read " + path.string());
    return {std::istreambuf_iterator<char>(in), {}};
}
std::string blob(const std::string &layout, std::string digest) {
    std::replace(digest.begin(), digest.end(), ':', '/');
    return layout + "/blobs/" + digest;
}
/// Blobs of the layout's first image; the layouts here are the project's own, one key a digest.
std::vector<std::string> layers_of(const std::string &layout) {
    const std::regex digest("\"digest\": ?\"(sha256:[0-9a-f]{64})\"");
    const auto digests = [&](const std::string &text) {
        std::vector<std::string> out;
        for (std::sregex_iterator it(text.begin(), text.end(), digest), end; it != end; ++it)
            out.push_back((*it)[1]);
        return out;
    };
    auto found = digests(read_text(blob(layout, digests(read_text(layout + "/index.json")).at(0))));
    found.erase(found.begin()); // the config
    for (auto &one : found)
        one = blob(layout, one);
    return found;
}
ByteSource file_source(int fd) {
    return [fd](void *buffer, size_t size) {
        const ssize_t n = ::read(fd, buffer, size);
        if (n < 0) throw Error::from_errno(errno, "read blob");
        return static_cast<size_t>(n);
    };
}

ByteSource text_source(const std::string &text) {
    return [&text, at = size_t{0}](void *buffer, size_t size) mutable {
        const size_t n = std::min(size, text.size() - at);
        std::copy_n(text.data() + at, n, static_cast<char *>(buffer));
        at += n;
        return n;
    };
}

void unpack(const std::string &layout, const std::string &dir, unsigned parallel) {
    const auto layers = layers_of(layout);
    std::atomic<size_t> next{0};
    std::atomic<uint64_t> bytes{0}, entries{0};
    const double cpu = cpu_ms();
    const auto begin = Clock::now();
    {
        std::vector<std::jthread> workers;
        for (unsigned i = 0; i < parallel; ++i)
            workers.emplace_back([&] {
                for (size_t at; (at = next++) < layers.size();) {
                    const std::string place = dir + "/" + std::to_string(at);
                    fs::create_directories(place);
                    const UniqueFd root(::open(place.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
                    const UniqueFd from(::open(layers[at].c_str(), O_RDONLY | O_CLOEXEC));
                    const CallScope scope;
                    const auto result = unpack_layer(file_source(from.get()), root.get(),
                                                     GANTRY_WHITEOUT_OVERLAY, UnpackLimits{}, scope);
                    bytes += result.bytes;
                    entries += result.entries;
                }
            });
    }
    const double ms = ms_since(begin);
    std::printf("{\"unpack_ms\": %.0f, \"cpu_ms\": %.0f, \"entries\": %lu, \"mib\": %.0f, \"mib_s\": %.0f, "
                "\"entries_s\": %.0f}\n",
                ms, cpu_ms() - cpu, entries.load(), static_cast<double>(bytes) / 1048576,
                static_cast<double>(bytes) / 1048.576 / ms, static_cast<double>(entries) * 1000 / ms);
}

void limits(const std::string &layout) {
    std::vector<uint8_t> buffer(256 << 10);
    double inflate = 0, hash_blob = 0, hash_tar = 0;
    uint64_t compressed = 0, unpacked = 0;
    for (const auto &path : layers_of(layout)) {
        const UniqueFd from(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        Hasher of_blob, of_tar;
        auto begin = Clock::now();
        for (ssize_t n; (n = ::read(from.get(), buffer.data(), buffer.size())) > 0;) {
            compressed += static_cast<uint64_t>(n);
            of_blob.update(buffer.data(), static_cast<size_t>(n));
        }
        hash_blob += ms_since(begin);
        ::lseek(from.get(), 0, SEEK_SET);
        const auto source = file_source(from.get());
        const auto stream = open_decompressor(source);
        for (;;) {
            begin = Clock::now();
            const size_t n = stream->read(buffer.data(), buffer.size());
            inflate += ms_since(begin);
            if (n == 0) break;
            begin = Clock::now();
            of_tar.update(buffer.data(), n);
            hash_tar += ms_since(begin);
            unpacked += n;
        }
    }
    std::printf(
        "{\"compressed_mib\": %.0f, \"unpacked_mib\": %.0f, \"inflate_ms\": %.0f, \"hash_blob_ms\": %.0f, "
        "\"hash_tar_ms\": %.0f}\n",
        static_cast<double>(compressed) / 1048576, static_cast<double>(unpacked) / 1048576, inflate,
        hash_blob, hash_tar);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void writable(const std::string &dir, int rounds) {
    fs::create_directories(dir + "/layers");
    Db db(dir + "/bench.db");
    const auto driver = std::make_shared<OverlayDriver>(dir + "/layers", OverlayDriver::Settings{});
    Layers layers(db, driver, "overlay", false);
    const CallScope scope;
    std::string top;
    int depth = 0;
    const std::string empty_tar(10240, '\0');
    for (const int wanted : {1, 8, 64, 128, 256, 499}) {
        for (; depth < wanted; ++depth) {
            auto making = layers.begin({}, top);
            making->unpack(text_source(empty_tar), scope);
            top = making->finish(top).id;
        }
        std::vector<double> create, mounts, mount, remove, both;
        for (int round = 0; round < rounds; ++round) {
            auto begin = Clock::now();
            const Layer layer = layers.create_writable(top, 0);
            create.push_back(ms_since(begin));
            auto step = Clock::now();
            const auto list = layers.mounts(layer.id, false);
            mounts.push_back(ms_since(step));
            double mounted = 0;
            {
                step = Clock::now();
                const UniqueFd tree = mount_detached(list);
                mounted = ms_since(step);
            }
            mount.push_back(mounted);
            step = Clock::now();
            layers.remove(layer.id);
            remove.push_back(ms_since(step));
            both.push_back(create.back() + mounts.back() + remove.back());
        }
        std::printf("{\"parents\": %d, \"create_ms\": %.3f, \"mounts_ms\": %.3f, \"remove_ms\": %.3f, "
                    "\"prepare_and_remove_ms\": %.3f, \"kernel_mount_ms\": %.3f}\n",
                    wanted, median(create), median(mounts), median(remove), median(both), median(mount));
        std::fflush(stdout);
    }
}

// A ustar header; the content, if any, is one block.
void add_entry(std::string &tar, const std::string &name, char type, size_t size) {
    char header[512] = {};
    std::snprintf(header, 100, "%s", name.c_str());
    std::snprintf(header + 100, 8, "%07o", type == '5' ? 0755 : 0644);
    std::snprintf(header + 108, 8, "%07o", 0);
    std::snprintf(header + 116, 8, "%07o", 0);
    std::snprintf(header + 124, 12, "%011zo", size);
    std::snprintf(header + 136, 12, "%011o", 1700000000);
    header[156] = type;
    std::copy_n("ustar\00000", 8, header + 257);
    std::fill_n(header + 148, 8, ' ');
    unsigned sum = 0;
    for (const char c : header)
        sum += static_cast<unsigned char>(c);
    std::snprintf(header + 148, 8, "%06o", sum);
    tar.append(header, sizeof header);
    if (size > 0) tar.append(512, 'x');
}

void commit(const std::string &dir, int rounds) {
    fs::create_directories(dir + "/layers");
    Db db(dir + "/bench.db");
    Layers layers(db, std::make_shared<OverlayDriver>(dir + "/layers", OverlayDriver::Settings{}), "overlay",
                  false);
    const CallScope scope;
    for (const int files : {1'000, 60'000}) {
        std::string tar;
        for (int i = 0; i < files; ++i) {
            const std::string folder = "d" + std::to_string(i / 100);
            if (i % 100 == 0) add_entry(tar, folder + "/", '5', 0);
            add_entry(tar, folder + "/f" + std::to_string(i), '0', 100);
        }
        tar.append(1024, '\0');
        auto making = layers.begin({}, "");
        making->unpack(text_source(tar), scope);
        const std::string base = making->finish("").id;
        std::vector<double> times;
        for (int round = 0; round < rounds; ++round) {
            const Layer layer = layers.create_writable(base, 0);
            {
                const UniqueFd tree = mount_detached(layers.mounts(layer.id, false));
                const UniqueFd file(::openat(tree.get(), "d5/f555", O_WRONLY | O_TRUNC | O_CLOEXEC));
                const std::string text = "changed in round " + std::to_string(round);
                if (!file || ::write(file.get(), text.data(), text.size()) < 0)
                    throw Error::from_errno(errno, "change a file");
            }
            const auto begin = Clock::now();
            const auto changes = layers.changes(layer.id);
            const auto made = layers.commit_changes(
                layer.id, changes, [](const std::string &) {}, scope);
            times.push_back(ms_since(begin));
            if (!made || changes.size() > 2) throw Error(ErrorClass::kInternal, "commit: not one change");
            layers.remove(made->id);
            layers.remove(layer.id);
        }
        std::printf("{\"files\": %d, \"commit_ms\": %.2f}\n", files, median(times));
    }
}

} // namespace

int main(int argc, char **argv) try {
    const std::string what = argc > 2 ? argv[1] : "";
    const auto number = [&](int at, int otherwise) { return argc > at ? std::atoi(argv[at]) : otherwise; };
    if (what == "unpack" && argc > 3)
        unpack(argv[2], argv[3],
               static_cast<unsigned>(number(4, static_cast<int>(std::thread::hardware_concurrency()))));
    else if (what == "limits")
        limits(argv[2]);
    else if (what == "writable")
        writable(argv[2], number(3, 50));
    else if (what == "commit")
        commit(argv[2], number(3, 20));
    else
        return std::fprintf(stderr, "usage: layer_bench unpack LAYOUT DIR [N] | limits LAYOUT | writable | "
                                    "commit DIR [ROUNDS]\n"),
               2;
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "layer_bench: %s\n", error.what());
    return 1;
}
