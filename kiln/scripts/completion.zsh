# Completion of @PROGRAMS@ in zsh, after compinit; printed by: @NAME@ completion zsh
@FUNCTION@() {
    local text
    local -a found
    if ! text=$(@PYTHON@ -I -m kiln.complete @TABLE@ @NAME@ "${(j: :)words[1,CURRENT]}" 2> /dev/null); then
        _files
        return
    fi
    found=("${(@f)text}")
    [[ -z $text ]] || compadd -- "${found[@]}"
}
compdef @FUNCTION@ @PROGRAMS@
