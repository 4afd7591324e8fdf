# Completion of @PROGRAMS@ in fish; printed by: @NAME@ completion fish
function @FUNCTION@
    set -l found (@PYTHON@ -I -m kiln.complete @TABLE@ @NAME@ (commandline -cp | string collect) 2> /dev/null)
    if test $status -ne 0
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\n' $found
end
for each in @PROGRAMS@
    complete -c $each -f -k -a '(@FUNCTION@)'
end
