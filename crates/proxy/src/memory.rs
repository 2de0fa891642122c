//! What the allocator kept of a large piece of work → back to the system.

/// To be called once something of tens of megabytes has been dropped: freed memory in the middle of a heap otherwise
/// stays with the process. Takes milliseconds, during which other threads may wait for memory.
pub fn give_back() {
    // musl's allocator gives back by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions; it only touches memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// To be called when a program has begun to serve: its pages of code and constants that only the start needed leave its
/// memory. What is needed again comes back from the file, 64 KiB at a time.
pub fn forget_start() {
    #[cfg(target_os = "linux")]
    // SAFETY: the callback is a function with the signature that dl_iterate_phdr(3) asks for, and no data goes with it.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_program), std::ptr::null_mut());
    }
    give_back();
}

/// Unmaps the pages of the first object, the program itself, that are never written: what has been relocated would be lost.
#[cfg(target_os = "linux")]
unsafe extern "C" fn forget_program(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the caller passes a valid description, whose headers stay mapped as long as the program.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, count);
        (object.dlpi_addr as usize, headers)
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let first = base + header.p_vaddr as usize;
        let start = first.next_multiple_of(PAGE);
        let end = (first + header.p_memsz as usize) & !(PAGE - 1);
        // SAFETY: a mapping of the program's file that nobody can write. Advice that is not taken changes nothing.
        unsafe {
            libc::madvise(
                start as *mut libc::c_void,
                end.saturating_sub(start),
                libc::MADV_DONTNEED,
            );
        }
    }
    // No further object.
    1
}

/// At least as much as a page is anywhere (64 KiB on some ARM machines): what is left out at the ends does not matter.
#[cfg(target_os = "linux")]
const PAGE: usize = 64 * 1024;
