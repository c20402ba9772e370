/* fuzz_load.c - a fuzzer of the loader, for libFuzzer: `make fuzz`.
 *
 * Checksums would stop it at the first byte, so it makes them right, as somebody
 * would who forges a file: the head's length of the file, the sections' sums, the
 * bytes between them.  What loads is asked everything and changed, and what it saves
 * then must load again.  The same file is mapped with its sections apart and the
 * pages between them locked: a read outside a section is a crash. */
#include <fcntl.h>
#include <unistd.h>

#include "vx_damage.h"

static int fd = -1;
static char path[40];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    vx_set_num_threads(1);
    fd = memfd_create("vecidx fuzz", 0);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return 0;
}

/* The length of the file, and zeros where nothing is stored. */
static void repair(dmg_file *file)
{
    dmg_section sections[DMG_SECTIONS];
    const int count = dmg_sections(file->bytes, file->n, sections);
    size_t end = count < 0 ? 0 : 328 + 64 * (size_t)count;
    if (count > 0)
        file->n = sections[count - 1].at + sections[count - 1].length;
    if (count >= 0)
        dmg_put(file->bytes + 24, 8, file->n);
    for (int i = 0; i < count; i++) {
        memset(file->bytes + end, 0, sections[i].at - end);
        end = sections[i].at + sections[i].length;
    }
    dmg_forge(file->bytes, file->n);
}

static void load_whole(const dmg_file *file)
{
    vx_index *index = NULL;
    vx_error err;
    dmg_file exact = dmg_copy(file->bytes, file->n); /* ASan sees a byte too many */
    const vx_status st = vx_index_load_memory(exact.bytes, exact.n, 0, NULL, &index, &err);
    free(exact.bytes);
    DMG_MUST(st == VX_OK || st == VX_E_FORMAT);
    if (st == VX_OK) {
        dmg_ask(index, true);
        dmg_change(index);
    }
    vx_index_free(index);
}

static void load_mapped(const dmg_file *file, int way)
{
    const vx_load_options options = {way == 2 ? VX_MAP_VECTORS : VX_MAP_ALL, way == 1};
    dmg_file spread = dmg_spread(file->bytes, file->n);
    vx_index *index = NULL;
    vx_error err;
    if (spread.bytes == NULL)
        return;
    DMG_MUST(ftruncate(fd, 0) == 0);
    DMG_MUST(pwrite(fd, spread.bytes, spread.n, 0) == (ssize_t)spread.n);
    const vx_status st = vx_index_load(path, &options, NULL, &index, &err);
    DMG_MUST(st == VX_OK || st == VX_E_FORMAT);
    if (st == VX_OK) {
        dmg_guard(index, &spread);
        dmg_ask(index, false);
    }
    vx_index_free(index);
    free(spread.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    dmg_file file = dmg_copy(data, n);
    repair(&file);
    load_whole(&file);
    load_mapped(&file, 0);
    load_mapped(&file, 1 + (int)(n % 2));
    free(file.bytes);
    return 0;
}
